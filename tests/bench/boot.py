#!/usr/bin/python3
"""How soon a Debian with systemd is at its login prompt, under QEMU's TCG and under Umbra in turn, as a Markdown table.

    tests/bench/boot.py [ROUNDS]
"""
import functools
import os
import subprocess
import sys
import tempfile

import bench
import debian
import vm


def boot(rival, folder):
    """One boot of a fresh copy of the image."""
    disk = os.path.join(folder, "debian.img")
    subprocess.run(["cp", "--sparse=always", debian.IMAGE, disk], check=True)
    bench.choose(rival)
    watch = bench.Stopwatch()
    with vm.Vm(append=debian.append(), memory=bench.MEMORY, disks=[disk], nets=["user"], prompt=debian.PROMPT) as machine:
        machine.expect("debian login: ", debian.BOOT_TIMEOUT)
        watch.note("Debian: start to login prompt")
    return watch.rows


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory(prefix="umbra-bench-") as folder:
        results = bench.in_turn(rounds, {rival: functools.partial(boot, rival, folder) for rival in bench.RIVALS})
    bench.table(results, [(bench.TCG, bench.OURS)])


if __name__ == "__main__":
    main()
