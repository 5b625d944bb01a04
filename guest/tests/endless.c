/* Loops of calls and returns, in 64-bit code. */
#include "endless_common.h"
