#!/bin/sh
# Every unit test of one build mode: tests/unit/run.sh build/MODE
set -u
status=0
for test in "$1"/tests/unit/*_test; do
    echo "# $test"
    timeout 300 "$test" 2>&1 || status=1
done
exit $status
