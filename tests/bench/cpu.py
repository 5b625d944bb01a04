#!/usr/bin/python3
"""CPU and kernel speed, natively on one core, under QEMU's TCG and under Umbra in turn, and how soon a guest is up, as Markdown tables.

    tests/bench/cpu.py [ROUNDS [ROW...]]

The rows are those of cpu_bench.c; kernel, initramfs, memory and command line are the same for both rivals.
"""
import os
import shlex
import subprocess
import sys
import tempfile

import bench
import vm

# The program is the kernel's init first: it says so and goes on to the default one.
APPEND = vm.APPEND + " rdinit=/bin/cpu_bench"
SLOW = 600  # seconds, for a row


def native(program, wanted):
    core = max(os.sched_getaffinity(0))
    done = subprocess.run([program, *wanted], stdout=subprocess.PIPE, text=True, check=True,
                          preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    return bench.rows_of(done.stdout)


def guest(rival, initrd, wanted):
    """One boot; the rows of seconds are the boot's."""
    bench.choose(rival)
    watch = bench.Stopwatch()
    with vm.Vm(initrd=initrd, append=APPEND, memory=bench.MEMORY) as machine:
        machine.expect("cpu_bench: init", vm.BOOT_TIMEOUT)
        watch.note("start to /init")
        machine.prompt()
        watch.note("start to prompt")
        output = machine.run("cpu_bench --touch " + shlex.join(wanted), 30 * SLOW)
        machine.send("poweroff\n")
        machine.wait()
    return watch.rows | bench.rows_of(output)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    wanted = sys.argv[2:]
    program = bench.build("cpu_bench", "cpu_bench.c", "cpu_rows_compute.c", "cpu_rows_system.c")
    with tempfile.TemporaryDirectory(prefix="umbra-bench-") as folder:
        initrd = bench.initrd(folder, program)
        results = bench.in_turn(rounds, {bench.NATIVE: lambda: native(program, wanted),
                                         bench.TCG: lambda: guest(bench.TCG, initrd, wanted),
                                         bench.OURS: lambda: guest(bench.OURS, initrd, wanted)})
    bench.table(results, [(bench.OURS, bench.NATIVE), (bench.TCG, bench.NATIVE), (bench.TCG, bench.OURS)])
    print()
    del results[bench.NATIVE]
    bench.table({rival: [{name: row for name, row in rows.items() if row[1] == "s"} for rows in all_rows] for rival, all_rows in results.items()},
                [(bench.TCG, bench.OURS)])


if __name__ == "__main__":
    main()
