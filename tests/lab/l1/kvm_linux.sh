#!/bin/sh
# Boots the default guest on KVM with disk, tap and console, works in it, and powers it off: kvm_linux.sh CPUS PACKETS
#
# Leaves /out/stats.json, Umbra's statistics, and /out/mmio.txt: how often KVM itself left the guest for MMIO before the packets and after.
. /lab/lib.sh
cpus=$1
packets=$2
disk=/tmp/disk.img
host=192.168.77.1
guest=192.168.77.2

dd if=/dev/urandom of=$disk bs=1M count=8 2>/dev/null
sum=$(md5sum <$disk)
tunctl -t tap0 >/dev/null
ip addr add $host/24 dev tap0
ip link set tap0 up
mkfifo /tmp/in
umbra run --engine kvm --cpus "$cpus" --kernel /guest/vmlinuz --initrd /guest/initrd.cpio.gz --append "console=ttyS0 quiet cryptomgr.notests" \
    --disk $disk --net tap=tap0 --no-reboot --stats=/out/stats.json </tmp/in >/out/console.txt 2>/out/umbra.txt &
vm=$!
exec 3>/tmp/in

# wait_for TEXT: in what the guest has printed.
wait_for() {
    until grep -q "$1" /out/console.txt; do
        kill -0 $vm 2>/dev/null || fail "umbra ended before '$1': $(cat /out/umbra.txt; tail -n 5 /out/console.txt)"
        sleep 0.2
    done
}

# in_guest N COMMAND: runs it; what marks its end is not in the line that is echoed.
in_guest() {
    echo "$2; echo done-\$(($1 + 0))." >&3
    wait_for "done-$1\."
}

kvm_mmio_exits() { cat /sys/kernel/debug/kvm/mmio_exits; }

wait_for 'umbra:~#'
in_guest 1 "nproc | sed s/^/cpus-/; dmesg | grep -c 'Hypervisor detected: KVM' | sed s/^/kvm-/"
in_guest 2 "md5sum </dev/vda"
in_guest 3 "ip addr add $guest/24 dev eth0; ip link set eth0 up; ping -c 1 $host"
kvm_mmio_exits >/out/mmio.txt
# As many packets out as in, asked for by either side.
in_guest 4 "ping -q -c $((packets / 2)) -i 0.005 $host"
ping -q -c $((packets / 2)) -i 0.005 $guest >/out/ping.txt || fail "the guest answers not every ping: $(cat /out/ping.txt)"
kvm_mmio_exits >>/out/mmio.txt
in_guest 5 "dd if=/dev/zero of=/dev/vda bs=4k count=64 seek=16 conv=fsync; dd if=/dev/vda bs=4k skip=16 count=64 | tr -d '\\000' | wc -c | sed s/^/left-/"
echo poweroff >&3
wait $vm
status=$?
[ $status = 0 ] || fail "umbra ended with status $status: $(cat /out/umbra.txt)"
grep -q "^cpus-$cpus" /out/console.txt || fail "the guest has not $cpus CPUs"
grep -q "^kvm-1" /out/console.txt || fail "the guest does not see KVM"
grep -q "^${sum%% *}" /out/console.txt || fail "the guest reads another disk than the host wrote"
grep -q "^left-0" /out/console.txt || fail "the guest does not read what it wrote"
grep -q " $((packets / 2)) packets received" /out/console.txt || fail "not every ping of the guest is answered"
dd if=$disk bs=4k skip=16 count=64 2>/dev/null | tr -d '\000' | wc -c | grep -q '^0$' || fail "what the guest wrote is not on the disk"
