# The default guest with disk, tap and console, and a hand on its shell: . /lab/lib.sh; . /lab/guest.sh
#
# Outside of L1 (tests/lab/exits), KERNEL, INITRD and OUT say where things are. MORE_APPEND is more of the kernel's command line.
out=${OUT:-/out}
work=$(mktemp -d)
disk=$work/disk.img
host=192.168.77.1
# shellcheck disable=SC2034 # for the scripts
guest=192.168.77.2

# start_guest ENGINE CPUS SETTING...: a VM with the name "guest"; $vm is its process.
start_guest() {
    engine=$1
    cpus=$2
    shift 2
    tunctl -t tap0 >/dev/null
    ip addr add $host/24 dev tap0
    ip link set tap0 up
    mkfifo "$work/in"
    umbra run --name guest --engine "$engine" --cpus "$cpus" --kernel "${KERNEL:-/guest/vmlinuz}" --initrd "${INITRD:-/guest/initrd.cpio.gz}" \
        --append "console=ttyS0 quiet cryptomgr.notests $MORE_APPEND" --disk "$disk" --net tap=tap0 --no-reboot "$@" <"$work/in" >"$out/console.txt" \
        2>"$out/umbra.txt" &
    vm=$!
    exec 3>"$work/in"
    wait_for 'umbra:~#'
}

# wait_for TEXT: in what the guest has printed.
wait_for() {
    until grep -q "$1" "$out/console.txt"; do
        kill -0 "$vm" 2>/dev/null || fail "umbra ended before '$1': $(cat "$out/umbra.txt"; tail -n 5 "$out/console.txt")"
        sleep 0.2
    done
}

# in_guest N COMMAND: runs it; what marks its end is not in the line that is echoed.
in_guest() {
    echo "$2; echo done-\$(($1 + 0))." >&3
    wait_for "done-$1\."
}

power_off() {
    echo poweroff >&3
    wait "$vm"
    status=$?
    [ $status = 0 ] || fail "umbra ended with status $status: $(cat "$out/umbra.txt")"
}
