#!/bin/sh
# Runs one fuzzer: tests/fuzz/run.sh NAME SECONDS. What it finds interesting is kept in build/corpus/NAME for the next run, and an input that
# fails as build/corpus/NAME-crash-*.
set -u
name=$1
seconds=$2
corpus=build/corpus/$name
mkdir -p "$corpus"
# Step's guests may have no memory of their own at the addresses that leak checking wants to read; handlers of faults are the engine's.
export ASAN_OPTIONS=detect_leaks=1:handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0:allow_user_segv_handler=1
if build/fuzz/fuzz/"$name" -max_total_time="$seconds" -rss_limit_mb=4096 -timeout=20 -print_final_stats=1 \
    -artifact_prefix="build/corpus/$name-" "$corpus" >"build/corpus/$name.log" 2>&1; then
    sed -n 's/^stat::number_of_executed_units: */# executed /p' "build/corpus/$name.log"
    echo "1 passed, 0 failed, 0 skipped"
else
    tail -n 40 "build/corpus/$name.log"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
