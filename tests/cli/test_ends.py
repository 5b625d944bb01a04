"""How a run ends: the status, the sentence, the statistics."""
import json
import os
import signal
import time

import pytest

import guests
from conftest import ROOT, TIMEOUT

CLOUD = os.path.join(ROOT, "build", "guest", "cloud", "vmlinuz")


def test_a_power_off_is_status_0_and_silent(umbra, kernel):
    done = umbra("run", "--kernel", kernel(guests.say("bye") + guests.POWER_OFF))
    assert (done.returncode, done.stdout, done.stderr) == (0, "bye", "")


def test_a_triple_fault_is_status_3_and_says_where(umbra, kernel):
    done = umbra("run", "--kernel", kernel(guests.TRIPLE_FAULT))
    assert (done.returncode, done.stdout) == (3, "")
    assert "triple-faulted" in done.stderr and "rip 0x1000" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("value", [0, 1, 0x2A, 0x7F])
def test_debug_exit_makes_the_status(umbra, kernel, value):
    done = umbra("run", "--debug-exit", "--kernel", kernel(guests.debug_exit(value)))
    assert (done.returncode, done.stderr) == (value << 1 | 1, "")


def test_without_debug_exit_its_port_is_nobodys(umbra, kernel):
    assert umbra("run", "--kernel", kernel(guests.out8(0xF4, 1) + guests.POWER_OFF)).returncode == 0


def test_a_reboot_starts_the_guest_again(start, kernel):
    process = start("run", "--kernel", kernel(guests.say("boot ") + guests.RESET))
    assert process.stdout.read(25) == b"boot " * 5
    process.terminate()
    assert process.wait(TIMEOUT) == 143


def test_no_reboot_ends_with_status_0_and_a_sentence(umbra, kernel):
    done = umbra("run", "--no-reboot", "--kernel", kernel(guests.say("boot") + guests.RESET))
    assert (done.returncode, done.stdout) == (0, "boot")
    assert "reset the machine" in done.stderr


@pytest.mark.parametrize("line", ["---[ end Kernel panic - not syncing: no peace ]---\r\n",
                                  "[    1.234567] ---[ end Kernel panic - not syncing: no peace ]---\r\n"])
@pytest.mark.parametrize("console", ["tty", "none"])
def test_a_panic_that_stays_is_status_4_and_quoted(umbra, kernel, line, console):
    done = umbra("run", "--console", console, "--kernel", kernel(guests.say(line) + guests.SPIN))
    assert done.returncode == 4
    assert "panicked: no peace" in done.stderr
    assert done.stdout == ("" if console == "none" else line.replace("\r\n", "\n"))


def linux(umbra, append, *more):
    if not os.path.exists(CLOUD):
        pytest.skip(f"{CLOUD} is missing: make guest")
    return umbra("run", "--memory", "256M", "--kernel", CLOUD, "--append", f"console=ttyS0 quiet cryptomgr.notests {append}", *more)


def test_a_linux_that_panics_is_status_4(umbra):
    done = linux(umbra, "")
    assert done.returncode == 4
    assert "VFS: Unable to mount root fs" in done.stderr


def test_a_linux_that_reboots_on_panic_has_not_ended(umbra):
    done = linux(umbra, "panic=-1", "--no-reboot")
    assert done.returncode == 0
    assert "Kernel panic - not syncing" in done.stdout
    assert "reset the machine" in done.stderr


@pytest.mark.parametrize("code", [guests.SPIN, guests.STOP, guests.RESET, guests.PRINT_FOR_EVER], ids=["spin", "halt", "reset", "print"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_signals_end_every_guest_with_128_and_their_number(start, kernel, tmp_path, code, number):
    process = start("run", "--console", "file:out.txt", "--kernel", kernel(guests.say("up") + code))
    deadline = time.monotonic() + TIMEOUT
    while not (tmp_path / "out.txt").exists() or not (tmp_path / "out.txt").stat().st_size:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(TIMEOUT) == 128 + number
    assert f"signal {int(number)} (" in process.stderr.read().decode()


def test_the_process_has_the_vms_name(start, kernel):
    process = start("run", "--name", "my-guest.1", "--kernel", kernel(guests.say("up") + guests.SPIN))
    assert process.stdout.read(2) == b"up"
    with open(f"/proc/{process.pid}/comm", encoding="ascii") as f:
        assert f.read() == "my-guest.1\n"


def test_statistics_come_as_a_table_on_standard_error(umbra, kernel):
    done = umbra("run", "--stats", "--name", "counted", "--kernel", kernel(guests.say("x") + guests.POWER_OFF))
    assert (done.returncode, done.stdout) == (0, "x")
    assert "statistics of counted" in done.stderr
    assert "PIO" in done.stderr


def test_statistics_come_into_a_file_as_json_by_its_name(umbra, kernel, tmp_path):
    code = kernel(guests.say("xyz") + guests.POWER_OFF)
    assert umbra("run", "--stats=s.json", "--kernel", code).returncode == 0
    assert umbra("run", "--stats=s.txt", "--kernel", code).returncode == 0
    stats = json.loads((tmp_path / "s.json").read_text())
    assert stats["vcpu0"]["PIO"]["count"] == 4
    assert stats["seconds"] > 0
    assert "PIO" in (tmp_path / "s.txt").read_text()


def test_statistics_do_not_change_the_status(umbra, kernel):
    assert umbra("run", "--stats", "--kernel", kernel(guests.TRIPLE_FAULT)).returncode == 3
