"""L1 as a machine of QEMU's TCG: AMD-V with nested paging, virtio, several CPUs."""
import os
import shutil
import socket
import sys

import initramfs

QEMU = "qemu-system-x86_64"
NAME, LOG = "QEMU", "qemu.log"
DISK = "vda"
# Real time is L1's: its TSC is the host's. The tick is periodic, so that after a lost one there is another.
APPEND = "nohz=off highres=off"
SECOND_S = 1  # how long a second of L1's may take
ENVIRONMENT = {}
LEFTOVERS = ("monitor",)


def missing():
    return None if shutil.which(QEMU) else f"there is no {QEMU}: install Debian's package qemu-system-x86"


def command(run, append):
    m = run.machine
    # The monitor's socket by a relative name: an absolute one may be too long for a socket's address.
    return [QEMU, "-accel", "tcg", "-cpu", "max", "-M", "q35", "-m", str(m.memory_mib), "-smp", str(m.cpus), "-nodefaults", "-display", "none",
            "-no-reboot", "-serial", "file:console.log", "-serial", "stdio" if run.shell else "file:test.log",
            "-monitor", "unix:monitor,server=on,wait=off", "-kernel", initramfs.KERNEL, "-initrd", "initramfs", "-append", append,
            "-drive", "file=disk,format=raw,if=none,id=out,cache=unsafe", "-device", "virtio-blk-pci,drive=out", *m.devices]


def monitor(run, request):
    """The answer of QEMU's monitor, as far as it comes within a second."""
    answer = b""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(1)
        folder = os.open(run.folder, os.O_PATH)
        try:
            s.connect(f"/proc/self/fd/{folder}/monitor")
        finally:
            os.close(folder)
        s.sendall(request.encode() + b"\n")
        try:
            while data := s.recv(65536):
                answer += data
        except socket.timeout:
            pass
    return answer.decode(errors="replace").replace("\r", "")


def tell_where_it_hangs(run):
    """Leaves the CPUs' registers in a file and, by an NMI, the kernel's stacks on the console."""
    try:
        with open(run.path("registers.txt"), "w", encoding="utf-8") as f:
            f.write(monitor(run, "info registers -a"))
        monitor(run, "nmi")
    except OSError as e:
        print(f"lab: QEMU's monitor does not answer: {e}", file=sys.stderr)
    run.ended_within(10)
