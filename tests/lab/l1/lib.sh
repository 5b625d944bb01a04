# What L1's init and the tests' scripts share: . /lab/lib.sh

fail() {
    echo "lab: $*"
    exit 1
}

# hang_report: what every process does, and where the threads of the VMMs stand in the kernel.
hang_report() {
    ps -o pid,ppid,stat,time,args | grep -v '\[.*\]$'
    for p in /proc/[0-9]*; do
        case $(cat "$p/comm" 2>/dev/null) in umbra | qemu-system-x86) ;; *) continue ;; esac
        for t in "$p"/task/*; do
            echo "--- $(tr '\0' ' ' <"$p/cmdline" | cut -c 1-60): thread ${t##*/} $(cat "$t/comm"): $(sed -n 's/^State:\t//p' "$t/status"), call $(cat "$t/syscall")"
            cat "$t/stack"
        done
    done
} 2>/dev/null
