/* What must hold for a queue of either format: included by the test of each, whose main() says which. */
#pragma once

#include "virtq_chain_tests.h"
#include "virtq_notify_tests.h"
#include "virtq_state_tests.h"

#define COMMON_TESTS CHAIN_TESTS, NOTIFY_TESTS, STATE_TESTS
