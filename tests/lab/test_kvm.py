"""The KVM engine on a real KVM, with nested page tables and without: each function of the seam, tiny guests, Linux at work.

AMD's CPU is QEMU's, Intel's is Bochs's, which takes half a minute to boot and shows what QEMU cannot: a debugger's points and INT3s.
"""
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


@pytest.mark.parametrize("emulator, test, npt", [
    *(("qemu", test, npt) for test in ("kvm_engine_test", "kvm_events_test") for npt in (1, 0)),
    ("bochs", "kvm_events_test", 1), pytest.param("bochs", "kvm_engine_test", 1, marks=pytest.mark.soak)])
def test_every_function_of_the_engine(lab, emulator, test, npt):
    path = os.path.join(UNIT, test)
    if not os.path.exists(path):
        pytest.skip(f"{path} is missing: make {os.path.relpath(path, the_lab.ROOT)}")
    output = lab(path, emulator=emulator, npt=npt, limit_s=300).output
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
    end, before, after = (json.loads(result.file(name)) for name in ("stats.json", "before.json", "after.json"))
    before, after = before["stats"], after["stats"]  # as "umbra stat" told them
    # Queue 0 of a network device receives, queue 1 sends.
    assert all(after["net0"][f"queue {queue} chains"] - before["net0"][f"queue {queue} chains"] >= PACKETS for queue in (0, 1))
    for stats in after, end:
        for device, queue, what, how in (("net0", 1, "kicks", "ioeventfd"), ("blk0", 0, "kicks", "ioeventfd"),
                                         ("net0", 0, "interrupts", "irqfd"), ("blk0", 0, "interrupts", "irqfd")):
            count = stats[device][f"queue {queue} {what}"]
            assert count == stats[device][f"queue {queue} {what} by {how}"] > 0
    # Neither did Umbra see an access for a packet, nor did KVM ask it to.
    for vcpu in (f"vcpu{index}" for index in range(cpus)):
        assert after[vcpu]["MMIO"]["count"] == before[vcpu]["MMIO"]["count"]
    first, last = result.file("mmio.txt").split()
    assert last == first, f"{int(last) - int(first)} MMIO exits for {PACKETS} packets each way"
    events = [json.loads(line) for line in result.file("trace.json").splitlines()]
    assert {"exit", "entry"} <= {e["event"] for e in events}
    for vcpu in range(cpus):
        turns = [e["event"] for e in events if e["event"] in ("exit", "entry") and e["cpu"] == vcpu]
        assert all(a != b for a, b in zip(turns, turns[1:]))


@pytest.mark.soak
@pytest.mark.parametrize("npt", [1, 0])
def test_linux_works_on_two_cpus_without_a_report_of_thread_sanitizer(lab, npt):
    path = os.path.join(the_lab.ROOT, "build", "tsan", "umbra")
    if not os.path.exists(path):
        pytest.skip(f"{path} is missing: make m=tsan")
    result = lab("kvm_linux.sh", ["2", str(PACKETS)], npt=npt, cpus=2, memory_mib=4096, limit_s=900, umbra=path)
    assert "ThreadSanitizer" not in result.file("umbra.txt")
