/* The host's clocks in nanoseconds. */
#pragma once

#include "base/types.h"

uint64_t clock_monotonic_ns(void); /* CLOCK_MONOTONIC */
uint64_t clock_realtime_ns(void);  /* CLOCK_REALTIME */
