#!/usr/bin/python3
"""What a second CPU gains in a guest with two, under QEMU's TCG and under Umbra, and natively, in turn, as a Markdown table.

    tests/bench/smp.py [ROUNDS]
"""
import subprocess
import sys
import tempfile

import bench
import vm


def native(program):
    return bench.rows_of(subprocess.run([program], stdout=subprocess.PIPE, text=True, check=True).stdout)


def guest(rival, initrd):
    bench.choose(rival)
    cpus = ("-smp", "2") if vm.IS_QEMU else ("--cpus", "2")
    with vm.Vm(initrd=initrd, memory=bench.MEMORY, extra=cpus) as machine:
        machine.prompt()
        output = machine.run("smp_bench", 600)
        machine.send("poweroff\n")
        machine.wait()
    return bench.rows_of(output)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    program = bench.build("smp_bench", "smp_bench.c")
    with tempfile.TemporaryDirectory(prefix="umbra-bench-") as folder:
        initrd = bench.initrd(folder, program)
        results = bench.in_turn(rounds, {bench.NATIVE: lambda: native(program), bench.TCG: lambda: guest(bench.TCG, initrd),
                                         bench.OURS: lambda: guest(bench.OURS, initrd)})
    bench.table(results, [(bench.NATIVE, bench.OURS), (bench.NATIVE, bench.TCG)])  # gains: more is better, so it is how much of native's


if __name__ == "__main__":
    main()
