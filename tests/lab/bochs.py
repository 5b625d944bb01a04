"""L1 as a machine of Bochs: Intel's VMX with EPT, one CPU.

Bochs interprets, and what it does with a guest's debug registers, INT3 and INT1 is what the CPU does, where QEMU's TCG leaves things out. Its time is
made of instructions: a second is IPS of them, and one in which the CPU is halted passes at once.

The machine has a BIOS and an IDE disk and no way to be given a kernel: isolinux loads it from a CD.
"""
import os
import shutil
import signal
import subprocess

import initramfs

NAME, LOG = "Bochs", "bochs.log"
DISK = "sda"
# What would be a reset ends Bochs: a triple fault. Whatever is on the console takes as long as on a line of 115200 bits/s.
APPEND = "reboot=triple quiet nokaslr"
SECOND_S = 4  # how long a second of L1's may take
ENVIRONMENT = {"TERM": "vt100"}  # of its display, which nobody sees
LEFTOVERS = ("cd.iso", "disk.lock")
IPS = 50_000_000  # about what it does
ISOLINUX = "/usr/lib/ISOLINUX/isolinux.bin"
LDLINUX = "/usr/lib/syslinux/modules/bios/ldlinux.c32"
PACKAGES = {"/usr/bin/bochs": "bochs", "/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so": "bochs-term",
            "/usr/share/bochs/BIOS-bochs-latest": "bochsbios", "/usr/share/bochs/VGABIOS-lgpl-latest": "vgabios",
            ISOLINUX: "isolinux", LDLINUX: "syslinux-common", "/usr/bin/genisoimage": "genisoimage"}

CONFIGURATION = """\
config_interface: textconfig
display_library: term, options=hideIPS
cpu: model=corei7_haswell_4770, count={cpus}, ips={ips}, reset_on_triple_fault=0
memory: guest={memory_mib}, host={memory_mib}
romimage: file=$BXSHARE/BIOS-bochs-latest, options=fastboot
vgaromimage: file=$BXSHARE/VGABIOS-lgpl-latest
clock: sync=none, time0=utc
boot: cdrom
ata0-master: type=disk, path=disk, mode=flat, cylinders={cylinders}, heads=16, spt=63
ata1-master: type=cdrom, path=cd.iso, status=inserted
com1: enabled=1, mode=file, dev=console.log
com2: enabled=1, mode=file, dev=test.log
log: bochs.log
panic: action=fatal
error: action=ignore
debugger_log: registers.txt
"""


def missing():
    packages = [package for path, package in PACKAGES.items() if not os.path.exists(path)]
    return f"Bochs or what boots it is missing: install Debian's packages {' '.join(packages)}" if packages else None


def command(run, append):
    m = run.machine
    assert not run.shell and not m.devices, "Bochs runs neither a shell nor QEMU's devices"
    cd = run.path("cd")
    os.mkdir(cd)
    for name, source in (("isolinux.bin", ISOLINUX), ("ldlinux.c32", LDLINUX), ("vmlinuz", initramfs.KERNEL)):
        shutil.copyfile(source, os.path.join(cd, name))
    os.rename(run.path("initramfs"), os.path.join(cd, "initrd"))
    with open(os.path.join(cd, "isolinux.cfg"), "w", encoding="utf-8") as f:
        f.write(f"default l1\nlabel l1\nkernel vmlinuz\ninitrd initrd\nappend {append}\n")
    subprocess.run(["genisoimage", "-quiet", "-o", run.path("cd.iso"), "-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot",
                    "-boot-load-size", "4", "-boot-info-table", cd], check=True)
    shutil.rmtree(cd)
    with open(run.path("bochsrc"), "w", encoding="utf-8") as f:
        f.write(CONFIGURATION.format(cpus=m.cpus, ips=IPS, memory_mib=m.memory_mib, cylinders=os.path.getsize(run.path("disk")) // (16 * 63 * 512)))
    # Debian's Bochs stops in its debugger before the first instruction.
    with open(run.path("debugger"), "w", encoding="utf-8") as f:
        f.write("continue\n")
    return ["bochs", "-q", "-f", "bochsrc", "-rc", "debugger"]


def tell_where_it_hangs(run):
    """Bochs's debugger leaves the CPU's registers and stack in a file."""
    run.process.send_signal(signal.SIGINT)
    run.process.stdin.write(b"r\ncreg\nprint-stack 16\nquit\n")
    run.process.stdin.flush()
    run.ended_within(10)
