/* Loops of calls, returns and jumps, in 32-bit code. */
#include "endless_common.h"
