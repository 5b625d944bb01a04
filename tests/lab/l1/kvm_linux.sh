#!/bin/sh
# Boots the default guest on KVM with disk, tap and console, works in it, and powers it off: kvm_linux.sh CPUS PACKETS
#
# Leaves in /out stats.json, Umbra's statistics at the end; before.json and after.json, what "umbra stat" told before the packets and after;
# mmio.txt, how often KVM itself left the guest for MMIO until either; and trace.json, what "umbra trace" saw of work with the disk.
. /lab/lib.sh
. /lab/guest.sh
cpus=$1
packets=$2

look() {
    umbra stat guest --json >"/out/$1.json" || fail "umbra stat ended with status $?"
    cat /sys/kernel/debug/kvm/mmio_exits >>/out/mmio.txt
}

dd if=/dev/urandom of="$disk" bs=1M count=8 2>/dev/null
sum=$(md5sum <"$disk")
start_guest kvm "$cpus" --stats=/out/stats.json
in_guest 1 "nproc | sed s/^/cpus-/; dmesg | grep -c 'Hypervisor detected: KVM' | sed s/^/kvm-/"
in_guest 2 "md5sum </dev/vda"
in_guest 3 "ip addr add $guest/24 dev eth0; ip link set eth0 up; ping -c 1 $host"
look before
# As many packets out as in, asked for by either side.
in_guest 4 "ping -c $((packets / 2)) -i 0.005 $host | sed -n 's/.* seq=\([0-9]*\) .*/\1/p' >/tmp/seqs; \
echo answered-\$(wc -l </tmp/seqs)-of-\$((\$(tail -n 1 /tmp/seqs) + 1))"
ping -q -c $((packets / 2)) -i 0.005 $guest >/out/ping.txt || fail "the guest answers not every ping: $(cat /out/ping.txt)"
look after
umbra trace guest --events 20000 --json >/out/trace.json &
tracer=$!
sleep 3 # it has begun
in_guest 5 "dd if=/dev/zero of=/dev/vda bs=4k count=64 seek=16 conv=fsync; dd if=/dev/vda bs=4k skip=16 count=64 | tr -d '\\000' | wc -c | sed s/^/left-/"
kill $tracer # which makes it tell what there is
wait $tracer || fail "umbra trace ended with status $?"
power_off
grep -q "^cpus-$cpus" /out/console.txt || fail "the guest has not $cpus CPUs"
grep -q "^kvm-1" /out/console.txt || fail "the guest does not see KVM"
grep -q "^${sum%% *}" /out/console.txt || fail "the guest reads another disk than the host wrote"
grep -q "^left-0" /out/console.txt || fail "the guest does not read what it wrote"
# Ping waits a second for the last answers, which may not be enough on a busy host: so there need be none behind the last one that came.
answered=$(sed -n "s/^answered-\([0-9]*\)-of-\([0-9]*\).*/\1 \2/p" /out/console.txt)
# shellcheck disable=SC2086 # two words
set -- ${answered:-0 none}
[ "$1" = "$2" ] && [ "$1" -ge $((packets / 2 - packets / 20)) ] || fail "of the guest's pings $1 are answered, of which the last is number $2"
dd if="$disk" bs=4k skip=16 count=64 2>/dev/null | tr -d '\000' | wc -c | grep -q '^0$' || fail "what the guest wrote is not on the disk"
