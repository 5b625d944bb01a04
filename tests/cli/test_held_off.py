"""A console that is held off, a guest that does not listen, a process that stands: the keys and signals still work."""
import fcntl
import os
import select
import signal
import termios
import time

import pytest

import guests
from conftest import BINARY, TIMEOUT, Terminal

# As guests.ECHO, but a break comes back as an exclamation mark; there is no FIFO, so that one byte holds up the next.
ECHO_BREAKS = (b"\x66\xba\xfd\x03\xec\xa8\x01\x74\xf7\x88\xc3"  # until LSR.DR; bl = LSR
               b"\x66\xba\xf8\x03\xec\xf6\xc3\x10\x74\x02\xb0!\xee\xeb\xe6")


def held(fd):
    """So many bytes that nobody has read are in the pipe."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), "little")


@pytest.fixture
def full_pipe():
    """A small pipe, and a function that waits until it is full."""
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 4096)

    def wait():
        deadline = time.monotonic() + TIMEOUT
        before, now = -1, 0
        # A write that does not fit as a whole leaves some room: it is full when no more comes.
        while select.select([], [into], [], 0)[1] or now != before:
            assert time.monotonic() < deadline, f"{now} bytes came"
            time.sleep(0.1)
            before, now = now, held(out)

    yield into, wait
    os.close(out)
    os.close(into)


def test_the_escape_key_quits_while_nobody_reads_the_output(kernel, full_pipe):
    into, wait = full_pipe
    t = Terminal(["bash", "-c", f'exec "{BINARY}" run --kernel {kernel(guests.PRINT_FOR_EVER)} > /proc/{os.getpid()}/fd/{into}'])
    try:
        wait()
        t.until(t.is_raw, "raw mode")
        t.send(b"\x01x")
        assert t.wait() == 0
        assert t.is_as_before()
    finally:
        t.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_umbra_while_nobody_reads_the_output(start, kernel, full_pipe, number):
    into, wait = full_pipe
    process = start("run", "--kernel", kernel(guests.PRINT_FOR_EVER), stdout=into)
    wait()
    process.send_signal(number)
    assert process.wait(TIMEOUT) == 128 + number


def test_a_guest_that_ends_while_nobody_reads_is_not_waited_for_for_ever(start, kernel, full_pipe):
    into, wait = full_pipe
    process = start("run", "--kernel", kernel(guests.print_dots(5000) + guests.POWER_OFF), stdout=into)
    wait()
    assert process.wait(TIMEOUT) == 0


def test_a_break_keeps_its_place_among_the_keys(terminal, kernel):
    t = terminal("run", "--kernel", kernel(guests.say("ready ") + ECHO_BREAKS))
    t.expect(b"ready ")
    t.send(b"abc\x01bdef")
    t.expect(b"abc!def")
    t.send(b"\x01bg")
    t.expect(b"!g")


def test_a_stopped_umbra_can_be_ended(terminal, kernel):
    t = terminal("run", "--kernel", kernel(guests.say("ready ") + guests.ECHO))
    t.expect(b"ready ")
    t.process.send_signal(signal.SIGTSTP)
    t.until(t.is_as_before, "the terminal as before")
    t.process.send_signal(signal.SIGTERM)
    t.process.send_signal(signal.SIGCONT)
    assert t.wait() == 143
    assert t.is_as_before()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL])
def test_the_terminal_is_restored_by_a_fault_of_umbras_own(terminal, kernel, number):
    t = terminal("run", "--kernel", kernel(guests.say("ready ") + guests.SPIN))
    t.expect(b"ready ")
    # An instruction's fault comes again when the engine finds that it is no guest's; one that is sent has to be sent again.
    t.process.send_signal(number)
    t.read_some(0.2)

    def ended():
        if t.process.poll() is None:
            t.process.send_signal(number)
        return t.process.poll() is not None

    t.until(ended, "the end")
    assert t.process.returncode == -number
    assert t.is_as_before()
