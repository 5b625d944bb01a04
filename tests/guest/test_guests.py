"""Every guest image of guest/tests in every mode of the engine: UMBRA, GUESTS and MODES in the environment say which."""
import mmap
import os
import re
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

TIMEOUT_S = 60
UMBRA = os.environ.get("UMBRA", "build/umbra")
IMAGES = sorted(Path(os.environ.get("GUESTS", "build/release/guest")).glob("*.elf"))
MODES = os.environ.get("MODES", "step translate lockstep").split()
PASSED = 1  # the debug-exit port's 0, as (v << 1) | 1

# Guests whose end is the point: what becomes of them instead of a total.
ENDS_BY_TRIPLE_FAULT = {"triple_fault", "triple_fault_32"}
NEVER_ENDS = {"spin"}
WRITTEN_FROM_OUTSIDE = {"outside"}
# Guests of several CPUs. Lockstep is for one.
SEVERAL_CPUS = {"bring_up", "smp", "smp_litmus"}
# What a guest finds as opt/umbra/test.
FW_CFG_FILE = b"what the host wrote\n"


def run(image, mode, timeout=TIMEOUT_S, cpus="1", engine="soft"):
    with tempfile.NamedTemporaryFile(prefix="umbra-guest-") as f:
        f.write(FW_CFG_FILE)
        f.flush()
        command = [UMBRA, "run", "--engine", engine, "--kernel", str(image), "--append", f"mode={mode} cpus={cpus.split(',')[0]}",
                   "--cpus", cpus, "--debug-exit",
                   "--no-reboot", "--console", "tty", "--fw-cfg", f"opt/umbra/test={f.name}"]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False,
                              env={**os.environ, "UMBRA_SOFT": mode})


def report(result):
    return result.stdout.decode(errors="replace").replace("\r", "") + result.stderr.decode(errors="replace")


def images(wanted):
    return [pytest.param(i, id=i.stem) for i in IMAGES if wanted(i.stem)]


def is_plain(name):
    return name not in ENDS_BY_TRIPLE_FAULT | NEVER_ENDS | SEVERAL_CPUS | WRITTEN_FROM_OUTSIDE


def test_there_are_images():
    assert len(images(is_plain)) > 10, "build them: make guests"


def passes(image, mode, **more):
    result = run(image, mode, **more)
    text = report(result)
    if mode == "kvm" and "KVM had to emulate an instruction and cannot" in text:
        pytest.skip("this host's KVM has no hardware, and cannot emulate an instruction of the guest's")
    total = re.search(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", text, re.MULTILINE)
    assert total, f"no total, status {result.returncode}:\n{text}"
    assert int(total[2]) == 0 and int(total[1]) > 0, text
    assert result.returncode == PASSED, text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("image", images(is_plain))
def test_guest_passes(image, mode):
    passes(image, mode)


@pytest.mark.parametrize("cpus", ["2", "4", "6,sockets=2,cores=3"])
@pytest.mark.parametrize("mode", [m for m in MODES if m != "lockstep"])
@pytest.mark.parametrize("image", images(SEVERAL_CPUS.__contains__))
def test_guest_of_several_cpus_passes(image, mode, cpus):
    passes(image, mode, cpus=cpus, timeout=4 * TIMEOUT_S)


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="there is no /dev/kvm for this user")
@pytest.mark.parametrize("cpus", ["1", "2", "64"])
@pytest.mark.parametrize("image", images("bring_up".__eq__))
def test_cpus_come_up_on_any_kvm(image, cpus):
    passes(image, "kvm", cpus=cpus, engine="kvm", timeout=4 * TIMEOUT_S)


def guest_memory(pid):
    """The memfd behind --memory SIZE,shared."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        if "memfd:umbra-memory" in os.readlink(path):
            with open(path, "r+b") as f:
                return mmap.mmap(f.fileno(), 0)
    raise AssertionError("no shared memory")


@pytest.mark.parametrize("mode", [m for m in MODES if m != "lockstep"])  # which runs all twice, and so memory must stay
@pytest.mark.parametrize("image", images(WRITTEN_FROM_OUTSIDE.__contains__))
def test_code_that_another_process_writes_runs(image, mode):
    command = [UMBRA, "run", "--kernel", str(image), "--memory", "64M,shared", "--debug-exit", "--no-reboot", "--console", "tty"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env={**os.environ, "UMBRA_SOFT": mode}) as vm:
        try:
            code = int(re.fullmatch(rb"code at (\w+)\s*", vm.stdout.readline())[1], 16)
            with guest_memory(vm.pid) as memory:
                while ran := re.fullmatch(rb"ran (\w+)\s*", vm.stdout.readline()):
                    written = struct.pack("<I", int(ran[1], 16) + 1)
                    memory[code + 1:code + 5] = written
                    memory[code + 0xffc:code + 0x1000] = written
            assert b"0 failed" in vm.stdout.read() and vm.wait(TIMEOUT_S) == PASSED
        finally:
            vm.kill()


def test_lockstep_is_for_one_cpu():
    result = run(images(is_plain)[0].values[0], "lockstep", cpus="2")
    assert result.returncode == 1 and "needs --cpus 1" in report(result)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("image", images(ENDS_BY_TRIPLE_FAULT.__contains__))
def test_triple_fault_ends_the_vm(image, mode):
    result = run(image, mode)
    text = report(result)
    assert "about to triple-fault" in text
    assert "triple-faulted" in text
    assert result.returncode not in (0, 1, 2, PASSED) and result.returncode > 0, text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("image", images(NEVER_ENDS.__contains__))
def test_spinning_guest_ends_by_sigterm(image, mode):
    command = [UMBRA, "run", "--kernel", str(image), "--console", "tty"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**os.environ, "UMBRA_SOFT": mode}) as vm:
        try:
            assert b"spinning" in vm.stdout.readline()
            assert vm.poll() is None
            vm.terminate()
            vm.communicate(timeout=TIMEOUT_S)
        finally:
            vm.kill()
