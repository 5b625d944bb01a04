#!/usr/bin/python3
"""How soon a VM enters its guest, and the memory of its process: the software engine on this host, KVM in the lab, as a Markdown table.

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
SOFT, KVM = "software engine, host", "KVM, lab"


def soft(program):
    with tempfile.TemporaryDirectory() as folder:
        programs = os.path.join(folder, "bin")
        os.mkdir(programs)
        for name, path in (("busybox", initramfs.BUSYBOX), ("umbra", lab.UMBRA), ("start", program)):
            os.symlink(path, os.path.join(programs, name))
        places = {"KERNEL": vm.KERNEL, "INITRD": vm.INITRD, "VMLINUX": os.path.join(vm.GUEST, "cloud", "vmlinux"),
                  "GUESTS": os.path.join(bench.ROOT, "build", "release", "guest"), "XDG_RUNTIME_DIR": folder, "PATH": programs}
        return bench.rows_of(subprocess.run([initramfs.BUSYBOX, "sh", SCRIPT, "soft"], stdout=subprocess.PIPE, text=True, check=True,
                                            env=places).stdout)


def kvm(program):
    return bench.rows_of(lab.run("bench-start", SCRIPT, ["kvm"], cpus=2, limit_s=300, programs=(program,),
                                 files={"guest/vmlinux": os.path.join(vm.GUEST, "cloud", "vmlinux")}).output)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    program = bench.build("start", "start.c")
    measures = {SOFT: lambda: soft(program)}
    if why := lab.missing():
        print(f"start: without the lab: {why}", file=sys.stderr)
    else:
        measures[KVM] = lambda: kvm(program)
    bench.table(bench.in_turn(rounds, measures), [])


if __name__ == "__main__":
    try:
        main()
    except lab.LabError as e:
        sys.exit(f"start: {e}")
