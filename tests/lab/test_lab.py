"""The lab itself: what L1 offers, what comes back, and that what hangs is ended and told of."""
import os
import re

import pytest

import lab as the_lab


@pytest.mark.parametrize("npt", [1, 0])
def test_l1_has_kvm_with_hardware_behind_it_and_runs_the_software_engine(lab, npt):
    result = lab("probe.sh", npt=npt)
    assert f"npt={'NY'[npt]}" in result.output
    assert re.search(r"^KVM .*hardware-assisted", result.file("probe.txt"), re.M)
    assert re.search(r"^[1-9]\d* passed, 0 failed", result.output, re.M)
    assert "\nstatus 1\n" in result.output  # the debug-exit port's 0


def test_a_failing_script_fails_with_its_last_words(lab):
    with pytest.raises(the_lab.LabError, match=r"status 3(?s:.)*last words"):
        lab("ends.sh", ["status"])


def test_a_script_that_hangs_is_ended_and_where_it_stood_is_told(lab):
    with pytest.raises(the_lab.LabError, match=r"longer than 5 s(?s:.)*umbra run(?s:.)*thread \d+ vcpu0: R"):
        lab("ends.sh", ["hang"], limit_s=5)


def test_an_l1_that_panics_is_told_with_its_console(lab):
    with pytest.raises(the_lab.LabError, match=r"ended before the test(?s:.)*Kernel panic"):
        lab("ends.sh", ["panic"])


@pytest.mark.soak
@pytest.mark.parametrize("emulator", the_lab.EMULATORS)
def test_an_l1_that_hangs_leaves_its_cpus_registers_and_has_a_second_try(lab, monkeypatch, emulator):
    monkeypatch.setattr(the_lab, "SILENCE_S", 15)
    with pytest.warns(UserWarning, match="ONCE MORE"), pytest.raises(the_lab.L1Hung, match="last sign of life"):
        lab("ends.sh", ["freeze"], emulator=emulator, limit_s=120, programs=("/usr/bin/chrt",))
    folder = os.path.join(the_lab.ROOT, "build", "lab", f"test_an_l1_that_hangs_leaves_its_cpus_registers_and_has_a_second_try_{emulator}")
    for attempt in folder, folder + ".hung":
        assert re.search("RIP=|rip: ", the_lab.read(os.path.join(attempt, "registers.txt")))
        assert "freezing" in the_lab.read(os.path.join(attempt, "test.log"))
