"""umbra trace: a time line of what tiny guests do again and again, and who may have one."""
import json
import re
import signal
import struct
import subprocess
import time

import pytest

import guests
from conftest import TIMEOUT

READS_PORT_60 = b"\xe4\x60\xeb\xfc"  # in al, 0x60; jmp back
FILLS_2M = b"\x31\xc0\x0f\x22\xd8\xa1" + struct.pack("<I", 0x200000) + b"\xeb\xf4"  # xor eax, eax; mov cr3, eax; mov eax, [2 MiB]; jmp back


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """A folder for control sockets of the test's own, by a short name."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


@pytest.fixture
def vm(start, kernel, umbra, runtime):
    """vm(CODE, SETTING...): a guest of that code, which answers by the name "traced"."""

    def begin(code, *settings):
        process = start("run", "--name", "traced", "--kernel", kernel(code), "--console", "none", *settings)
        deadline = time.monotonic() + TIMEOUT
        while "traced" not in umbra("list").stdout:
            assert process.poll() is None and time.monotonic() < deadline, "the VM did not start"
            time.sleep(0.05)

    return begin


def wait_until_free(umbra):
    """The VM notices that the tracer is gone, and takes another."""
    deadline = time.monotonic() + TIMEOUT
    while umbra("trace", "traced", "--ms", "1").returncode:
        assert time.monotonic() < deadline


def test_a_guest_that_reads_a_port_is_exits_and_entries(vm, umbra):
    vm(READS_PORT_60)
    result = umbra("trace", "traced", "--events", "1500")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()[1:]
    assert len(lines) == 1500
    times = [float(line.split()[0]) for line in lines]
    assert times[0] == 0 and times == sorted(times)
    exits = sum(bool(re.search(r" cpu0 +exit PIO, port 0x60$", line)) for line in lines)
    assert exits > 500 and sum(bool(re.search(r" cpu0 +entry$", line)) for line in lines) > 500


def test_json_has_an_object_for_each_event(vm, umbra):
    vm(READS_PORT_60)
    events = [json.loads(line) for line in umbra("trace", "traced", "--events", "200", "--json").stdout.splitlines()]
    assert len(events) == 200
    ports = [e for e in events if e["event"] == "exit" and e["reason"] == "PIO"]
    assert ports and all(e["address"] == 0x60 and e["cpu"] == 0 for e in ports)
    assert all(a["ns"] <= b["ns"] for a, b in zip(events, events[1:]))


@pytest.mark.parametrize("code", [READS_PORT_60, guests.PRINT_FOR_EVER])
def test_exits_and_entries_take_turns(vm, umbra, code):
    vm(code)
    events = [json.loads(line) for line in umbra("trace", "traced", "--events", "2000", "--json").stdout.splitlines()]
    turns = [e["event"] for e in events if e["event"] in ("exit", "entry")]
    assert len(turns) > 1000
    assert all(a != b for a, b in zip(turns, turns[1:]))


def test_a_shadow_entry_is_told_with_its_page(vm, umbra):
    vm(FILLS_2M, "--engine", "soft")
    events = [json.loads(line) for line in umbra("trace", "traced", "--events", "100", "--json").stdout.splitlines()]
    assert len(events) == 100
    assert all((e["event"], e["cpu"], e["address"], e["page"]) == ("fill", 0, 0x200000, 0x200000) for e in events)
    assert " fill for 0x200000, page 0x200000\n" in umbra("trace", "traced", "--events", "2").stdout


def test_it_ends_with_its_time(vm, umbra):
    vm(guests.SPIN)
    result = umbra("trace", "traced", "--ms", "50")
    assert result.returncode == 0
    assert "nothing happened" in result.stderr or "cpu0" in result.stdout


def test_ctrl_c_ends_it_with_what_there_is(vm, umbra, start):
    vm(guests.SPIN)
    first = start("trace", "traced", "--events", "100000")
    deadline = time.monotonic() + TIMEOUT
    while "somebody else is tracing" not in umbra("trace", "traced", "--ms", "1").stderr:  # there is one at a time
        assert time.monotonic() < deadline
        if first.poll() is not None:  # the other one was quicker
            first = start("trace", "traced", "--events", "100000")
    first.send_signal(signal.SIGINT)
    assert first.wait(TIMEOUT) == 0
    wait_until_free(umbra)


def test_a_trace_ends_with_whoever_asked_for_it(vm, umbra, start):
    vm(READS_PORT_60)
    first = start("trace", "traced", "--events", "100000", stdout=subprocess.DEVNULL)
    first.kill()
    first.wait()
    wait_until_free(umbra)


@pytest.mark.parametrize("option, value", [("--ms", "0"), ("--ms", "3600001"), ("--events", "100001"), ("--events", "ten"), ("--events", "-1")])
def test_numbers_out_of_bounds_are_refused(umbra, runtime, option, value):
    result = umbra("trace", "traced", option, value)
    assert result.returncode == 2
    assert option in result.stderr and value in result.stderr


def test_without_such_a_vm_it_says_so(umbra, runtime):
    result = umbra("trace", "nobody")
    assert result.returncode == 1
    assert "nobody" in result.stderr
