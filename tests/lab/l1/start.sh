#!/bin/sh
# How soon a VM enters its guest, and what its process has in memory: start.sh ENGINE. Prints rows of tests/bench/start.c.
#
# Runs in L1, and on the host (tests/bench/start.py), where TINY, KERNEL, VMLINUX and INITRD say where things are.
engine=$1
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run}"
kernel=${KERNEL:-/guest/vmlinuz}
tiny=${TINY:-/guest/tiny.elf}
initrd=${INITRD:-/guest/initrd.cpio.gz}

vm() { # NAME SECONDS SETTING...
    name=$1
    seconds=$2
    shift 2
    start "$name" "$seconds" 512 umbra run --name start --engine "$engine" --memory 512M --net none "$@" 2>/dev/null
}

vm "cold" 2 --kernel "$tiny" >/dev/null
start "a static program: exec to end" busybox true
start "umbra --version: exec to end" umbra --version
vm "tiny guest, ELF" 2 --kernel "$tiny"
vm "Linux, vmlinux" 2 --kernel "${VMLINUX:-/guest/vmlinux}" --initrd "$initrd" --append "console=ttyS0"
vm "Linux, bzImage" "${SETTLE:-20}" --kernel "$kernel" --initrd "$initrd" --append "console=ttyS0"
