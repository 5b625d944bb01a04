"""A whole Debian with two CPUs under load: a compiler, tracers, modules, a just-in-time compiler, and ten minutes of stress with checked results."""
import os
import re

import pytest

import debian
import disks
import resident
import vm

pytestmark = [pytest.mark.soak, pytest.mark.umbra_only]
IMAGE = os.path.join(vm.GUEST, "load.img")
LONG = 20 * vm.TIMEOUT
STRESS_S = 600
MEMORY = "2G"
RESIDENT_MAX = 96 << 20

PROGRAM = r"""
#include <stdio.h>
int main(void) {
    unsigned long sum = 0;
    for (unsigned i = 1; i < 2000000; i++) sum += i ^ sum << 7 ^ sum >> 9;
    printf("%lu\n", sum);
    return 0;
}
"""
# Without the JIT the same sums: of integers, floating point, and strings that code is made from.
LUA = """
local primes, sieve = 0, {}
for i = 2, 2000000 do
    if not sieve[i] then primes = primes + 1; for k = i * 2, 2000000, i do sieve[k] = true end end
end
local x, y = 0.1, 0
for i = 1, 5000000 do x = 3.9 * x * (1 - x); y = y + math.floor(x * 1000) end
local s = 0
for i = 1, 3000 do s = s + loadstring("return " .. i .. " % 7")() end
print(primes, y, s)
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("load")
    if not os.path.exists(IMAGE):
        pytest.skip(f"{IMAGE} is missing: tools/debian-image.sh load")
    with debian.booted(disks.copy(IMAGE, folder / "disk"), memory=MEMORY, extra=("--cpus", "2")) as guest:
        debian.assert_no_failed_unit(guest)
        yield guest
        log = guest.run("dmesg")
        assert not re.search(r"\bBUG\b|WARNING:|Oops|\bstall|lockup|\bhung\b|unstable", log), log
        debian.power_off(guest)


def write(guest, path, text):
    """A file by a here-document: its lines are typed."""
    guest.run("printf '%s' '" + text.replace("'", "'\\''").replace("\n", "'$'\\n''") + f"' >{path}")


def test_a_program_is_compiled_and_runs(loaded):
    write(loaded, "/tmp/p.c", PROGRAM)
    loaded.run("for o in 0 2 3; do gcc -O$o -o /tmp/p$o /tmp/p.c; done", LONG)
    assert len(set(loaded.run("for o in 0 2 3; do /tmp/p$o; done", LONG).split())) == 1


def test_bpftrace_counts_system_calls_and_a_kprobe(loaded):
    program = ('tracepoint:raw_syscalls:sys_enter /comm == "dd"/ { @calls = count(); } kprobe:vfs_read /comm == "dd"/ { @reads = count(); }')
    output = loaded.run(f"bpftrace -c '/usr/bin/dd if=/dev/zero of=/dev/null bs=1 count=5000' -e '{program}' 2>&1", LONG)
    counts = dict(re.findall(r"^@(\w+): (\d+)", output, re.M))
    assert int(counts["calls"]) >= 10000 and int(counts["reads"]) >= 5000, output


def test_the_function_tracer_goes_on_and_off_under_load(loaded):
    loads = "(while [ ! -e /tmp/stop ]; do sh -c true; done) & (while [ ! -e /tmp/stop ]; do seq 1000 | sort | md5sum; done >/dev/null) &"
    loaded.run("cd /sys/kernel/tracing; { " + loads + " }")
    for _ in range(10):
        loaded.run("echo function >current_tracer; sleep 0.5; echo nop >current_tracer", LONG)
    once = "echo function >current_tracer; sleep 0.2; echo 0 >tracing_on; grep -c '<-' trace; echo nop >current_tracer; echo 1 >tracing_on"
    traced = loaded.run(once, LONG)
    loaded.run("touch /tmp/stop; wait; rm /tmp/stop; cd", LONG)
    assert int(traced) > 100


def test_modules_come_and_go(loaded):
    for name in ("dummy", "xfs", "btrfs", "nf_tables"):
        loaded.run(f"for i in 1 2 3 4 5; do modprobe {name} && rmmod {name} || exit 1; done", LONG)


def test_a_just_in_time_compiler_has_the_interpreter_s_results(loaded):
    write(loaded, "/tmp/p.lua", LUA)
    interpreted = loaded.run("luajit -joff /tmp/p.lua", LONG)
    assert interpreted.split()[0] == "148933"
    for _ in range(3):
        assert loaded.run("luajit -jon /tmp/p.lua", LONG) == interpreted


def test_stress_finds_no_error(loaded):
    kinds = "--vm 2 --vm-bytes 256M --fork 2 --mmap 1 --mmap-bytes 64M --sigsegv 1 --sigrt 1 --sigpending 1 --futex 1 --mprotect 1"
    status, output = loaded.status_and_output(f"stress-ng {kinds} --verify --timeout {STRESS_S} --metrics-brief 2>&1", STRESS_S + LONG)
    assert status == 0 and not re.search(r"\bfail:|\berror:", output), output


def test_little_is_resident_beside_the_guest_s_memory_and_the_code_cache(loaded):
    """After all that the tests before have done."""
    parts, lines = resident.resident(loaded.process.pid, MEMORY)
    told = ", ".join(f"{part} {size / 2**20:.1f} MiB" for part, size in parts.items())
    print(*lines[:20], told, sep="\n")
    assert resident.outside(parts) <= RESIDENT_MAX, told
