#!/bin/bash
# Whole workloads, in a guest: prints a row for each. Run where gcc, xz, python3, sqlite3 and 7zz are, in the folder of what work.py made.
set -eu

row() { # row NAME COMMAND...: how long it takes; its output is in the file named out
    name=$1
    shift
    start=$EPOCHREALTIME
    "$@" >/tmp/out
    end=$EPOCHREALTIME
    printf 'row %s|%d.%06d|s\n' "$name" $(((${end/./} - ${start/./}) / 1000000)) $(((${end/./} - ${start/./}) % 1000000))
}

expect() { # expect WORDS: what the last row printed
    [ "$(cat /tmp/out)" = "$*" ] || {
        echo "not '$*' but '$(head -c 200 /tmp/out)'" >&2
        exit 1
    }
}

shells() {
    for _ in {1..100}; do
        sh -c true
    done
}

# Once without measuring, so that the disk is no part of it.
gcc -O2 -w -c -x c /dev/null -o /tmp/none.o
cat data program.c work_* >/dev/null

row "gcc -O2, 10,000 lines" gcc -O2 -c program.c -o /tmp/program.o
row "xz -0, 64 MB" xz -0 -T1 -k -c data
row "sha256sum, 64 MB" sha256sum data
expect "$(cat data.sha256)"
row "python3" python3 work_program.py
expect "$(cat work_program.py.out)"
row "sqlite3, a million rows" sqlite3 /tmp/rows.db <work_rows.sql
expect "$(cat work_rows.sql.out)"
row "100 times sh -c true" shells
7zz b 1 -mmt1 -md20 >/tmp/out
echo "row 7-Zip benchmark|$(sed -n 's/^Tot: .* \([0-9]\+\)$/\1/p' /tmp/out)|MIPS"
