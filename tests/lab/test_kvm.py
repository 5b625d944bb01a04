"""The KVM engine on a real KVM, with nested page tables and without: each function of the seam, tiny guests, Linux at work."""
import json
import os
import re

import pytest

import lab as the_lab

UNIT = os.path.join(the_lab.ROOT, "build", "release", "tests", "unit")
# Those that ask of the CPU no more than QEMU's TCG can do with a guest of its own: segment limits, #MF, #AC and INT1 are not among it, and a write
# of CR8 while an interrupt waits ends QEMU, so that none of these has any.
GUESTS = ["hello", "hello_32", "compat", "modes_32", "segments_32", "syscalls"]
NPT_GUESTS = ["paging"]  # KVM's shadow paging is not exact in what this one looks at
PACKETS = 1000


@pytest.mark.parametrize("npt", [1, 0])
@pytest.mark.parametrize("test", ["kvm_engine_test", "kvm_events_test"])
def test_every_function_of_the_engine(lab, test, npt):
    path = os.path.join(UNIT, test)
    if not os.path.exists(path):
        pytest.skip(f"{path} is missing: make {os.path.relpath(path, the_lab.ROOT)}")
    output = lab(path, npt=npt, limit_s=300).output
    assert "FAILED" not in output
    assert re.search(r"PASSED  \] [1-9]", output)


@pytest.mark.parametrize("npt", [1, 0])
def test_tiny_guests(lab, npt):
    guests = GUESTS + (NPT_GUESTS if npt else [])
    output = lab("kvm_guests.sh", [*guests, "triple_fault"], npt=npt, limit_s=300).output
    for name in guests:
        assert f"{name}: status 1: " in output and f"{name}: status 1: 0 passed" not in output  # the debug-exit port's 0
    assert "triple_fault: status 3: umbra: the guest triple-faulted" in output


@pytest.mark.parametrize("npt, cpus", [(1, 1), (0, 2), pytest.param(1, 2, marks=pytest.mark.soak), pytest.param(0, 1, marks=pytest.mark.soak)])
def test_linux_works_with_disk_network_and_console_and_powers_off(lab, npt, cpus):
    result = lab("kvm_linux.sh", [str(cpus), str(PACKETS)], npt=npt, limit_s=400)
    stats = json.loads(result.file("stats.json"))
    net, disk = stats["net0"], stats["blk0"]
    # Queue 0 receives, queue 1 sends.
    assert net["queue 0 chains"] >= PACKETS and net["queue 1 chains"] >= PACKETS
    for queue in (net["queue 1 kicks"], net["queue 1 kicks by ioeventfd"]), (disk["queue 0 kicks"], disk["queue 0 kicks by ioeventfd"]):
        assert queue[0] == queue[1] > 0
    for queue in (net["queue 0 interrupts"], net["queue 0 interrupts by irqfd"]), (disk["queue 0 interrupts"], disk["queue 0 interrupts by irqfd"]):
        assert queue[0] == queue[1] > 0
    before, after = result.file("mmio.txt").split()
    assert after == before, f"{int(after) - int(before)} MMIO exits for {PACKETS} packets each way"
