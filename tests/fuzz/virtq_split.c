/* Fuzzes split virtqueues. */
#define FORMAT 0ULL
#include "virtq_fuzz.h"
