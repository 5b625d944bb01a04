#!/usr/bin/python3
"""Whole workloads in a Debian guest, under QEMU's TCG and under Umbra in turn, as a Markdown table: compilers, archivers, interpreters, a shell.

    tests/bench/work.py [ROUNDS]

work.sh runs them. What they work on is made here, the same each time, and is on a second disk; the first is tools/debian-image.sh bench.
"""
import functools
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile

import bench
import debian
import disks
import vm

HERE = os.path.dirname(os.path.abspath(__file__))
IMAGE = os.path.join(vm.GUEST, "bench.img")
DATA_BYTES = 64 << 20
FUNCTIONS = 1000
SLOW = 3600  # seconds, for all of work.sh
SQL_OUTPUT = "off\n1000000|503996542|9888898\n50396059\n495556487"

FUNCTION = """
static unsigned work_{0}(unsigned *p, unsigned n)
{{
    unsigned sum = {0};
    for (unsigned i = 0; i < n; i++) {{
        p[i % 64] ^= sum << {1};
        sum += p[(i + {0}) % 64] / {2} + (i & 1 ? work_{3}(p, n / 2) : i * {0});
    }}
    return sum % {2};
}}
"""


def c_program():
    """FUNCTIONS functions of ten lines."""
    parts = ["static unsigned work_0(unsigned *p, unsigned n) { return p[n % 64]; }"]
    parts += [FUNCTION.format(i, i % 13 + 1, i % 97 + 3, i - 1) for i in range(1, FUNCTIONS + 1)]
    return "".join(parts) + f"unsigned work(unsigned *p, unsigned n) {{ return work_{FUNCTIONS}(p, n); }}\n"


def data():
    """Words, which can be compressed to some part."""
    source = random.Random(1)
    words = [bytes(source.choices(b"abcdefghijklmnopqrstuvwxyz", k=source.randrange(2, 12))) for _ in range(4096)]
    some = [b" ".join(source.choices(words, k=12)) + b"\n" for _ in range(20000)]
    text = b""
    while len(text) < DATA_BYTES:
        source.shuffle(some)
        text += b"".join(some)
    return text[:DATA_BYTES]


def make_tree(tree):
    os.makedirs(tree)
    for name in ("work.sh", "work_program.py", "work_rows.sql"):
        shutil.copy(os.path.join(HERE, name), tree)
    text = data()
    python = subprocess.run([sys.executable, os.path.join(HERE, "work_program.py")], stdout=subprocess.PIPE, check=True).stdout
    for name, content in {"data": text, "data.sha256": hashlib.sha256(text).hexdigest().encode() + b"  data\n", "program.c": c_program().encode(),
                          "work_program.py.out": python, "work_rows.sql.out": SQL_OUTPUT.encode()}.items():
        with open(os.path.join(tree, name), "wb") as f:
            f.write(content)


def measure(rival, folder, tools):
    disk = disks.copy(IMAGE, os.path.join(folder, "bench.img"))
    bench.choose(rival)
    with debian.booted(disk, [tools], memory=bench.MEMORY) as machine:
        machine.run("systemctl is-system-running --wait >/dev/null; mount -o ro /dev/vdb /mnt && cd /mnt", debian.BOOT_TIMEOUT)
        output = machine.run("./work.sh", SLOW)
        debian.power_off(machine)
    return bench.rows_of(output)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory(prefix="umbra-bench-") as folder:
        tree = os.path.join(folder, "tree")
        make_tree(tree)
        tools = disks.ext4(os.path.join(folder, "tools.img"), 2 * DATA_BYTES, tree)
        shutil.rmtree(tree)
        results = bench.in_turn(rounds, {rival: functools.partial(measure, rival, folder, tools) for rival in bench.RIVALS})
    bench.table(results, [(bench.TCG, bench.OURS)])


if __name__ == "__main__":
    main()
