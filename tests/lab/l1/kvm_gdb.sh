#!/bin/sh
# gdb attached to the default guest on KVM, from its prompt on; the guest goes on afterwards.
#
# /symbols is the guest's kernel's symbol file. What gdb says is printed.
. /lab/lib.sh
# shellcheck disable=SC2034 # for guest.sh
MORE_APPEND=nokaslr
. /lab/guest.sh
dd if=/dev/zero of="$disk" bs=1M count=1 2>/dev/null
start_guest kvm 1 --gdb unix:/tmp/gdb
echo "at the prompt after $(cut -d ' ' -f 1 /proc/uptime) s"
PYTHONHOME=/usr gdb -q -nx -batch -x /lab/gdb_session /symbols 2>&1 &
gdb=$!
until [ -e /tmp/attached ]; do
    kill -0 $gdb 2>/dev/null || fail "gdb did not attach"
    sleep 0.2
done
echo "attached after $(cut -d ' ' -f 1 /proc/uptime) s"
echo "cat /proc/version" >&3
wait $gdb || fail "gdb ended with status $?"
echo "detached after $(cut -d ' ' -f 1 /proc/uptime) s"
wait_for "Linux version 6"
in_guest 1 "seq 10000 | md5sum"
grep -q "^$(seq 10000 | md5sum)" "$out/console.txt" || fail "the guest counts wrongly"
power_off
