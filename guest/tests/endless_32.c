/* Loops of calls and returns, in 32-bit code. */
#include "endless_common.h"
