# What L1's init and the tests' scripts share: . /lab/lib.sh

fail() {
    echo "lab: $*"
    exit 1
}

# hang_report: which processes there are, and where the threads of the VMMs stand in the kernel.
hang_report() {
    ps -o pid,ppid,stat,args | grep -v '\[.*\]$'
    for p in /proc/[0-9]*; do
        case $(readlink "$p/exe") in /bin/umbra | /bin/qemu-system-*) ;; *) continue ;; esac
        echo "--- $(tr '\0' ' ' <"$p/cmdline")"
        for t in "$p"/task/*; do
            echo "- thread ${t##*/} $(cat "$t/comm"): $(sed -n 's/^State:\t//p' "$t/status"), system call $(cat "$t/syscall")"
            cat "$t/stack"
        done
    done
}
