#!/bin/sh
# L1 has a KVM with hardware behind it, and the software engine runs there as everywhere.
. /lab/lib.sh
[ -c /dev/kvm ] || fail "no /dev/kvm"
[ -c /dev/net/tun ] || fail "no /dev/net/tun"
[ -c /dev/vhost-net ] || fail "no /dev/vhost-net"
umbra probe | tee probe.txt
umbra run --engine soft --kernel /guests/devices.elf --debug-exit --no-reboot --console tty
echo "status $?"
