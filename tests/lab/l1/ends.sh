#!/bin/sh
# Ends as the lab's own tests want it: status, hang, panic, freeze.
. /lab/lib.sh
case $1 in
status)
    echo "last words"
    exit 3
    ;;
hang) umbra run --engine soft --kernel /guests/spin.elf --console tty ;;
panic) echo c >/proc/sysrq-trigger ;;
freeze) # nothing else runs any more, init's watch among it: only interrupts get through
    echo -1 >/proc/sys/kernel/sched_rt_runtime_us
    echo "freezing"
    exec chrt -f 99 sh -c 'while :; do :; done'
    ;;
*) fail "there is no end $1" ;;
esac
