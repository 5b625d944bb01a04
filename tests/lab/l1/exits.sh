#!/bin/sh
# Counts what leaves a guest of one CPU while it is idle, reads its disk, sends and receives packets: exits.sh ENGINE SECONDS READS PACKETS
#
# For each STEP, $OUT has STEP-before.json and STEP-after.json of "umbra stat", and on KVM STEP.hist: the CPU's exits by reason. What a step's
# command costs apart from its repetitions is measured by STEP-none, the same without them.
. "${LAB:-/lab}/lib.sh"
. "${LAB:-/lab}/guest.sh"
engine=$1
seconds=$2
reads=$3
packets=$4
nobody=192.168.77.3 # takes packets and answers none
kvm_exit=/sys/kernel/debug/tracing/events/kvm/kvm_exit

step() { # NAME COMMAND...
    name=$1
    shift
    [ "$engine" != kvm ] || echo hist:keys=exit_reason >$kvm_exit/trigger || fail "L1's kernel has no histogram of exits"
    umbra stat guest --json >"$out/$name-before.json"
    "$@" >>"$out/steps.txt" 2>&1
    umbra stat guest --json >"$out/$name-after.json"
    [ "$engine" != kvm ] || cat $kvm_exit/hist >"$out/$name.hist"
    [ "$engine" != kvm ] || echo '!hist:keys=exit_reason' >$kvm_exit/trigger
}

read_disk() { in_guest "$1" "dd if=/dev/vda of=/dev/null bs=4k count=$2 iflag=direct"; }
send() { in_guest "$1" "ping -q -c $2 -i 0.005 -W 1 $nobody"; }
receive() { ping -q -c "$1" -i 0.005 -W 1 $guest; }

truncate -s 64M "$disk"
start_guest "$engine" 1
in_guest 1 "ip addr flush dev eth0; ip addr add $guest/24 dev eth0; ip link set eth0 up; ping -c 1 $host; arp -s $nobody 02:00:00:00:00:03"
in_guest 2 "echo 1 >/proc/sys/net/ipv4/icmp_echo_ignore_all; killall udhcpc ntpd 2>/dev/null"
sleep 3
step idle sleep "$seconds"
step read-none read_disk 3 0
step read read_disk 4 "$reads"
step out-none send 5 1
step out send 6 $((packets + 1))
step in-none receive 1
step in receive $((packets + 1))
power_off
