#!/usr/bin/python3
"""How soon a VM enters its guest, and the memory of its process, as a Markdown table: the software engine on this host, KVM on this host where
it has /dev/kvm, with hardware behind it or not, and KVM in the lab.

    tests/bench/start.py [ROUNDS]
"""
import os
import subprocess
import sys
import tempfile

import bench
import vm

sys.path.insert(0, os.path.join(bench.ROOT, "tests", "lab"))
import initramfs  # noqa: E402
import lab  # noqa: E402

SCRIPT = os.path.join(initramfs.L1, "start.sh")
SOFT, KVM, LAB = "software engine, host", "KVM, host", "KVM, lab"


def tiny_guest():
    """An ELF file with a multiboot header; returns its name."""
    out = os.path.join(bench.OUT, "tiny.elf")
    subprocess.run(["gcc", "-m32", "-nostdlib", "-static", "-no-pie", "-Wl,-n,-Ttext=0x100000,--build-id=none", "-o", out,
                    os.path.join(bench.ROOT, "tests", "bench", "tiny.S")], check=True)
    return out


def host(engine, program, tiny):
    with tempfile.TemporaryDirectory() as folder:
        programs = os.path.join(folder, "bin")
        os.mkdir(programs)
        for name, path in (("busybox", initramfs.BUSYBOX), ("umbra", lab.UMBRA), ("start", program)):
            os.symlink(path, os.path.join(programs, name))
        places = {"KERNEL": vm.KERNEL, "INITRD": vm.INITRD, "VMLINUX": os.path.join(vm.GUEST, "cloud", "vmlinux"),
                  "TINY": tiny, "XDG_RUNTIME_DIR": folder, "PATH": programs}
        return bench.rows_of(subprocess.run([initramfs.BUSYBOX, "sh", SCRIPT, engine], stdout=subprocess.PIPE, text=True, check=True,
                                            env=places).stdout)


def in_lab(program, tiny):
    return bench.rows_of(lab.run("bench-start", SCRIPT, ["kvm"], cpus=2, limit_s=300, programs=(program,),
                                 files={"guest/vmlinux": os.path.join(vm.GUEST, "cloud", "vmlinux"), "guest/tiny.elf": tiny}).output)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    program = bench.build("start", "start.c")
    tiny = tiny_guest()
    measures = {SOFT: lambda: host("soft", program, tiny)}
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        measures[KVM] = lambda: host("kvm", program, tiny)
    else:
        print("start: without KVM on this host: /dev/kvm cannot be opened", file=sys.stderr)
    if why := lab.missing():
        print(f"start: without the lab: {why}", file=sys.stderr)
    else:
        measures[LAB] = lambda: in_lab(program, tiny)
    bench.table(bench.in_turn(rounds, measures), [])


if __name__ == "__main__":
    try:
        main()
    except lab.LabError as e:
        sys.exit(f"start: {e}")
