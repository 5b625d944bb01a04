"""umbra console: more consoles for a VM that has one, or none; each sees the same, each can type, and leaving leaves the VM alone."""
import os
import re
import signal
import subprocess
import time

import pytest

import guests
from conftest import BINARY, TIMEOUT


@pytest.fixture
def attach(terminal):
    """attach(): umbra console on a terminal of its own, which is raw by now."""

    def begin(name="box"):
        t = terminal("console", name)
        t.expect(b"Ctrl-a d leaves it")
        t.until(t.is_raw, "raw mode")
        t.expect(b"\n")
        time.sleep(0.1)
        return t

    return begin


@pytest.mark.parametrize("console", [["--console", "none"], ["--console", "file:out.txt"], ["--console", "tty"]])
def test_two_consoles_see_the_same_and_both_can_type(start, kernel, attach, tmp_path, runtime_dir, console):
    process = start("run", "--name", "box", "--kernel", kernel(guests.ECHO), *console)
    while not os.path.exists(f"{runtime_dir}/umbra/box.sock"):
        assert process.poll() is None
        time.sleep(0.01)
    first, second = attach(), attach()
    for typist, other, text in ((first, second, b"hello"), (second, first, b"world")):
        typist.send(text)
        typist.expect(text)
        other.expect(text)
    first.send(b"\x01d")
    assert first.wait() == 0
    assert first.is_as_before()
    second.send(b"again")
    second.expect(b"again")
    second.send(b"q")
    assert second.wait() == 0
    assert b"the VM 'box' has ended" in second.output
    assert second.is_as_before()
    assert process.wait(TIMEOUT) == 0
    seen = (tmp_path / "out.txt").read_bytes() if "file:out.txt" in console else process.stdout.read()
    assert seen == (b"" if "none" in console else b"helloworldagainq")


def test_all_that_is_typed_comes_through_but_the_escape_key(running, attach):
    running(guests.ECHO)
    t = attach()
    t.send(b"\x03\x1a\x1c\x04 \x01\x01\x01a\r\xff")
    t.expect(b"\x03\x1a\x1c\x04 \x01\x01\r\xff")
    t.send(b"\x01h")
    for line in (b"Ctrl-a d", b"Ctrl-a h", b"Ctrl-a b", b"Ctrl-a a"):
        t.expect(b"umbra: " + line)
    t.send(b"\x01x\x01szz")  # neither quits the VM nor prints on this side
    t.expect(b"zz")


def test_a_break_reaches_the_guest(running, attach):
    process = running(guests.out8(0x3FC, 3) + guests.say("!") + b"\x66\xba\xfd\x03\xec\xa8\x10\x74\xf7" + guests.debug_exit(1), "--debug-exit")
    assert process.stdout.read(1) == b"!"
    attach().send(b"\x01b")
    assert process.wait(TIMEOUT) == 3


def test_a_break_that_the_guest_cannot_take_is_not_sent_in_silence(running, attach):
    running(guests.SPIN)
    t = attach()
    t.send(b"\x01b")
    t.expect(b"the break was not sent: the guest takes no input now")


def test_typing_that_the_guest_never_reads_does_not_block_the_escape_key(running, attach):
    process = running(guests.SPIN)
    t = attach()
    for _ in range(300):
        t.send(b"x" * 1000)
    t.send(b"\x01d")
    assert t.wait() == 0
    assert t.is_as_before()
    assert process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_leaves_the_console_and_gives_the_terminal_back(running, attach, number):
    process = running(guests.SPIN)
    t = attach()
    t.process.send_signal(number)
    assert t.wait() == 128 + number
    assert t.is_as_before()
    assert process.poll() is None


def test_a_stop_gives_the_terminal_back_and_going_on_takes_it_again(running, attach):
    running(guests.ECHO)
    t = attach()
    t.process.send_signal(signal.SIGTSTP)
    t.until(t.is_as_before, "the terminal as before")
    t.process.send_signal(signal.SIGCONT)
    t.until(t.is_raw, "raw mode")
    t.send(b"on")
    t.expect(b"on")


@pytest.mark.parametrize("how", ["kill", "SIGKILL", "SIGTERM"])
def test_the_end_of_the_vm_is_the_end_of_its_consoles(umbra, running, attach, how):
    process = running(guests.SPIN)
    t = attach()
    if how == "kill":
        assert umbra("kill", "box").returncode == 0
    else:
        process.send_signal(getattr(signal, how))
    assert t.wait() == 0
    assert b"the VM 'box' has ended" in t.output
    assert t.is_as_before()


def test_a_reset_does_not_end_it(umbra, running, attach):
    running(guests.SPIN)
    t = attach()
    for _ in range(3):
        assert umbra("reset", "box").returncode == 0
        t.expect(b"up")


def test_without_a_terminal_standard_input_is_typed(umbra, running):
    process = running(guests.ECHO)
    text = "\x01d" + "0123456789" * 300 + "q"  # no escape key there
    done = umbra("console", "box", stdin=None, input=text)
    assert (done.returncode, done.stdout) == (0, text)
    assert process.wait(TIMEOUT) == 0


def test_the_output_goes_on_when_standard_input_has_ended(umbra, start, running, runtime_dir):
    running(guests.ECHO)
    watcher = start("console", "box")
    time.sleep(0.3)
    assert umbra("console", "box", stdin=None, input="abcq").stdout == "abcq"
    assert watcher.stdout.read() == b"abcq"
    assert watcher.wait(TIMEOUT) == 0


@pytest.fixture
def printing(start, kernel, runtime_dir):
    """A VM that prints dots for ever, from a file's worth on; nobody but who attaches sees them."""
    process = start("run", "--name", "box", "--console", "none", "--kernel", kernel(guests.PRINT_FOR_EVER))
    while not os.path.exists(f"{runtime_dir}/umbra/box.sock"):
        assert process.poll() is None
        time.sleep(0.01)
    return process


def test_a_watcher_that_does_not_read_holds_nobody_back_and_is_told_what_it_missed(start, printing):
    slow, other = start("console", "box"), start("console", "box")
    assert slow.stdout.read(10) == b"." * 10
    slow.send_signal(signal.SIGSTOP)
    assert other.stdout.read(2000000).strip(b".") == b""
    slow.send_signal(signal.SIGCONT)
    seen = b""
    while not (match := re.search(rb"\r\n\[umbra: (\d+) bytes of output are missing here\]\r\n", seen)):
        data = slow.stdout.read1(65536)
        assert data
        seen = seen[-1000:] + data
    assert int(match[1]) > 0
    assert slow.stdout.read(10).strip(b".") == b""
    assert printing.poll() is None


def test_a_console_whose_output_is_closed_ends(printing):
    done = subprocess.run(["bash", "-c", f'"{BINARY}" console box </dev/null | head -c 100'], capture_output=True, timeout=TIMEOUT, check=False)
    assert done.stdout == b"." * 100
    assert printing.poll() is None
