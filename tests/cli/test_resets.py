"""A reset of the machine, by each of the ways that a PC has: it starts again, or ends umbra with --no-reboot."""
import pytest

import guests

# Each is written in this order; the last write resets.
WAYS = {"0xcf9": [(0xCF9, 2), (0xCF9, 6)], "keyboard": [(0x64, 0xFE)], "port 0x92": [(0x92, 0), (0x92, 1)]}


def reset(way):
    return b"".join(guests.out8(port, value) for port, value in WAYS[way]) + guests.STOP


def twice(way):
    """Says "boot ", and resets unless a byte of CMOS, which batteries keep, tells that it did so before."""
    mark = guests.out8(0x70, 0x5C) + guests.out8(0x71, 0xA5) + reset(way)
    look = guests.out8(0x70, 0x5C) + b"\xe4\x71\x3c\xa5\x0f\x84" + len(mark).to_bytes(4, "little")  # in al, 0x71; je
    return guests.say("boot ") + look + mark + guests.say("again") + guests.POWER_OFF


@pytest.mark.parametrize("way", WAYS)
def test_a_reset_starts_the_guest_again(umbra, kernel, way):
    done = umbra("run", "--kernel", kernel(twice(way)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "boot boot again", "")


@pytest.mark.parametrize("way", WAYS)
def test_no_reboot_makes_a_reset_the_end(umbra, kernel, way):
    done = umbra("run", "--no-reboot", "--kernel", kernel(twice(way)))
    assert (done.returncode, done.stdout) == (0, "boot ")
    assert "reset the machine" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_reset_loads_the_kernel_again(umbra, kernel):
    """The guest changes a byte of its own image, and finds it as in the file afterwards."""
    at = guests.LOAD + 32 + 1  # the immediate of the first mov al: the letter that is said
    change = b"\xc6\x05" + at.to_bytes(4, "little") + b"y"
    code = guests.say("x ") + change + twice("0xcf9")
    assert code[1] == ord("x")
    done = umbra("run", "--kernel", kernel(code))
    assert (done.returncode, done.stdout) == (0, "x boot x boot again")
