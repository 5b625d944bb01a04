"""Programs of our own, compiled by gcc for 64 and 32 bits: in the guest they print what they print on the host."""
import functools
import subprocess

import pytest

import programs
import vm

# Their checksums are the processor's: QEMU's differ where it approximates.
COMPUTE = ["integers", "x87", "sse", "avx2", "avx512"]
CHECK_THEMSELVES = ["signals", "threads", "memory", "processes", "jit", "clocks", "tracing"]
OF_THE_PROCESSOR = {"sse_floats", "x87_functions", "sse_approximations", "x87_images"}
TIMEOUT = 120


@functools.lru_cache(maxsize=None)
def on_the_host(name, bits):
    """The lines that the program prints here; None where the host runs no programs of that width."""
    try:
        done = subprocess.run([programs.path(name, bits)], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except OSError:
        return None
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


def expected(name, bits):
    """A host without 32-bit programs computes with the 64-bit one, whose lines of the same names have the same sums."""
    lines = on_the_host(name, bits)
    if lines is None:
        lines = on_the_host(name, 64)
        lines = [line for line in lines if not line.split()[0].endswith(("_64", "_128", "_upper_registers"))]
    return lines


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("name", COMPUTE)
def test_the_guest_computes_what_the_host_computes(guest, name, bits):
    lines = guest.run(f"/tests/{name}{bits}", TIMEOUT).splitlines()
    wanted = expected(name, bits)
    if vm.IS_QEMU:
        keep = [line for line in lines if line.split()[0] not in OF_THE_PROCESSOR and not line.endswith("absent")]
        assert [line for line in keep if line not in wanted] == []
    else:
        assert lines == wanted
    if lines and lines[0].endswith("absent"):
        pytest.skip("neither the guest nor the host has it")


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("name", CHECK_THEMSELVES)
def test_programs_that_check_themselves_find_nothing(guest, name, bits):
    status, output = guest.status_and_output(f"/tests/{name}{bits}", TIMEOUT)
    assert status == 0, output


def test_64_bit_programs_call_32_bit_code(guest):
    status, output = guest.status_and_output("/tests/compat64", TIMEOUT)
    assert status == 0, output


def test_many_programs_at_once_keep_their_registers(guest):
    """Every program's vector registers, x87 stack and segments are its own, while the kernel switches among them."""
    names = ["sse64", "x8764", "avx264", "avx51264", "integers64", "x8732"]
    alone = "".join(guest.run(f"/tests/{name}", TIMEOUT) for name in names)
    guest.run("cd /tmp; for n in " + " ".join(names) + "; do /tests/$n >out.$n & done; wait; cd - >/dev/null", 2 * TIMEOUT)
    together = guest.run("cd /tmp; cat " + " ".join(f"out.{name}" for name in names) + "; rm out.*; cd - >/dev/null")
    assert together == alone
