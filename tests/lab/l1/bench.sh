#!/bin/sh
# Boots the same guest under Umbra and under QEMU with KVM, in turn: bench.sh ROUNDS. Prints "row RIVAL CPUS SECONDS" a boot.
#
# The guest has a disk, a tap and a serial console; its session reads the disk, pings L1 through the tap, and powers off.
. /lab/lib.sh
rounds=$1
append="console=ttyS0 quiet cryptomgr.notests"
truncate -s 64M /tmp/disk.img
tunctl -t tap0 >/dev/null
ip addr add 192.168.77.1/24 dev tap0
ip link set tap0 up

umbra_boot() {
    umbra run --engine kvm --cpus "$1" --memory 512M --kernel /guest/vmlinuz --initrd /guest/bench.img --append "$append" \
        --disk /tmp/disk.img --net tap=tap0 --no-reboot
}

qemu_boot() {
    qemu-system-x86_64 -L /usr/share/qemu -L /usr/share/seabios -accel kvm -cpu host -M q35 -smp "$1" -m 512M -nodefaults -display none -serial stdio -no-reboot \
        -kernel /guest/vmlinuz -initrd /guest/bench.img -append "$append" -drive file=/tmp/disk.img,format=raw,if=none,id=d \
        -device virtio-blk-pci,drive=d -netdev tap,id=n,ifname=tap0,script=no,downscript=no -device virtio-net-pci,netdev=n,romfile=
}

centiseconds() {
    read -r up _ </proc/uptime
    echo "${up%.*}${up#*.}"
}

boot() { # RIVAL CPUS
    start=$(centiseconds)
    "$1_boot" "$2" </dev/null >"$1.log" 2>&1 || fail "$1 ended with status $?: $(tail -n 20 "$1.log")"
    end=$(centiseconds)
    grep -q "bench: disk and network answer, $2 CPU" "$1.log" || fail "$1's guest came not to its session: $(tail -n 20 "$1.log")"
    taken=$((end - start))
    echo "row $1 $2 $((taken / 100)).$(printf %02d $((taken % 100)))"
}

for cpus in 1 2; do
    for _ in $(seq "$rounds"); do
        boot qemu "$cpus"
        boot umbra "$cpus"
    done
done
