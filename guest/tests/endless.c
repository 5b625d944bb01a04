/* Loops of calls, returns and jumps, in 64-bit code. */
#include "endless_common.h"
