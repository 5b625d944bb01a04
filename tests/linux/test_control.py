"""A Linux that is run by its name: stopped by its power button, paused, seen on more consoles, sent NMIs."""
import fcntl
import re
import struct
import subprocess
import termios
import time

import pytest

import debian
import disks
import vm

pytestmark = pytest.mark.umbra_only


def umbra(*args, timeout=vm.BOOT_TIMEOUT):
    done = subprocess.run([vm.BINARY, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout * vm.SCALE, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


class Console(vm.Vm):
    """umbra console, on a terminal of its own."""

    def __init__(self, name, rows=40, columns=120):
        super().__init__(rows=rows, columns=columns, answers=False)
        self.argv = [vm.BINARY, "console", name]


def test_the_power_button_switches_the_default_guest_off():
    with vm.Vm(extra=["--name", "button"]) as guest:
        guest.prompt()
        umbra("stop", "button", "--timeout", "100")
        assert guest.wait() == 0
        assert "Power down" in guest.output


@pytest.mark.soak
def test_the_power_button_switches_systemd_off(tmp_path):
    with debian.booted(disks.copy(debian.IMAGE, tmp_path / "disk"), memory="1G", extra=["--name", "systemd"]) as guest:
        umbra("stop", "systemd", "--timeout", str(debian.BOOT_TIMEOUT), timeout=debian.BOOT_TIMEOUT)
        assert guest.wait() == 0
        assert "Power down" in guest.output and "Reached target" in guest.output


def ticks(guest, seconds):
    """How many come in so many seconds."""
    start, until = len(guest.output), time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        guest.read_some(left)
    return guest.output.count("tick", start)


def test_a_paused_guest_is_silent_and_goes_on_where_it_was():
    with vm.Vm(extra=["--name", "ticker"]) as guest:
        guest.prompt()
        guest.send("i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.05; done\r")
        guest.expect("tick 3\r")
        umbra("pause", "ticker")
        ticks(guest, 0.5)  # what was on its way
        assert ticks(guest, 1) == 0
        assert "paused" in umbra("list")
        last = int(re.findall(r"tick (\d+)\r", guest.output)[-1])
        umbra("resume", "ticker")
        guest.expect(rf"tick {last + 1}\r")
        guest.send("\x03")
        guest.prompt()


@pytest.mark.soak
def test_a_guest_that_was_paused_for_long_does_not_take_its_cpus_for_stuck():
    """Longer than the 20 s after which the soft lockup detector speaks."""
    with vm.Vm(extra=["--name", "sleeper"]) as guest:
        guest.prompt()
        assert guest.run("cat /proc/sys/kernel/watchdog_thresh") == "10\n"
        umbra("pause", "sleeper")
        time.sleep(40)
        umbra("resume", "sleeper")
        guest.run("sleep 12")
        assert not re.search("lockup|stall", guest.run("dmesg"))


def test_an_nmi_reaches_the_kernel():
    with vm.Vm(extra=["--name", "masked"]) as guest:
        guest.prompt()
        before = guest.run("awk '/NMI:/ { print $2 }' /proc/interrupts")
        umbra("nmi", "masked")
        assert int(guest.run("awk '/NMI:/ { print $2 }' /proc/interrupts")) == int(before) + 1


def test_two_more_consoles_see_and_type_what_the_first_does():
    with vm.Vm(extra=["--name", "shared"]) as guest:
        guest.prompt()  # only then is there surely a VM of that name
        with Console("shared") as second, Console("shared") as third:
            for console in (second, third):
                console.expect("Ctrl-a d leaves it")
            second.send("echo from the sec''ond\r")
            for console in (guest, second, third):
                console.expect("from the second\r\n")
            third.send("\x01d")
            assert third.wait() == 0
            guest.run("true")
            guest.send("poweroff\r")
            assert guest.wait() == 0 and second.wait() == 0
            assert "the VM 'shared' has ended" in second.output


def test_a_virtio_console_follows_the_window_of_whoever_attached_last(tmp_path):
    extra = ["--name", "windows", "--console", "virtio"]
    with vm.Vm(append="console=hvc0 quiet cryptomgr.notests", extra=extra, rows=30, columns=100) as guest:
        guest.prompt()
        assert guest.run("stty size") == "30 100\n"
        with Console("windows", rows=50, columns=132) as second:
            second.expect("Ctrl-a d leaves it")
            deadline = time.monotonic() + vm.TIMEOUT * vm.SCALE
            while guest.run("stty size") != "50 132\n":
                assert time.monotonic() < deadline
            fcntl.ioctl(second.master, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 70, 0, 0))
            while guest.run("stty size") != "25 70\n":
                assert time.monotonic() < deadline
            second.send("\x01d")
            assert second.wait() == 0
