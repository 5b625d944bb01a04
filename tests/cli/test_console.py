"""The console without a terminal: pipes, files and nothing at all, in both directions."""
import fcntl
import os
import subprocess

import pytest

import guests
from conftest import BINARY, TIMEOUT

READY = guests.say("ready ")


def test_input_from_a_pipe_reaches_the_guest_and_its_end_does_not_end_it(start, kernel):
    process = start("run", "--kernel", kernel(READY + guests.ECHO), stdin=subprocess.PIPE)
    process.stdin.write(b"hello")
    process.stdin.close()
    assert process.stdout.read(11) == b"ready hello"
    assert process.poll() is None
    process.terminate()
    assert process.wait(TIMEOUT) == 143


def test_input_waits_until_the_guest_is_ready_for_it(umbra, kernel):
    """It clears its receiver, as drivers do, and only then raises RTS."""
    clear = guests.out8(0x3FA, 0x01) + guests.print_dots(100000) + guests.out8(0x3FA, 0x07)
    done = umbra("run", "--kernel", kernel(clear + guests.ECHO), stdin=None, input="abcdefq")
    assert (done.returncode, done.stdout.strip(".")) == (0, "abcdefq")


def test_there_is_no_escape_key_without_a_terminal(umbra, kernel):
    done = umbra("run", "--kernel", kernel(guests.ECHO), stdin=None, input="\x01x\x01hq")
    assert (done.returncode, done.stdout) == (0, "\x01x\x01hq")


@pytest.mark.parametrize("length", [1, 16, 17, 5000, 20000])
def test_all_of_a_file_is_typed_in(umbra, kernel, tmp_path, length):
    text = "".join(chr(ord("A") + i % 26) for i in range(length)) + "q"
    (tmp_path / "input").write_text(text)
    with open(tmp_path / "input", "rb") as f:
        done = umbra("run", "--kernel", kernel(guests.ECHO), stdin=f)
    assert (done.returncode, done.stdout) == (0, text)


def test_all_of_a_pipe_is_typed_in(umbra, kernel):
    text = "0123456789" * 2000 + "q"
    done = umbra("run", "--kernel", kernel(guests.ECHO), stdin=None, input=text)
    assert (done.returncode, done.stdout) == (0, text)


@pytest.mark.parametrize("redirect", ["< /dev/null", "<&-", "< /", "</dev/zero"])
def test_a_guest_runs_whatever_standard_input_is(kernel, redirect):
    code = kernel(READY + guests.POWER_OFF)
    done = subprocess.run(["bash", "-c", f'"{BINARY}" run --kernel {code} {redirect}'], capture_output=True, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stdout) == (0, b"ready ")


@pytest.mark.parametrize("redirect", [">&-", "> /dev/full", "> /dev/null", "| true"])
def test_a_guest_goes_on_when_its_output_goes_nowhere(kernel, redirect):
    code = kernel(guests.print_dots(200000) + guests.debug_exit(4))
    shell = f'set -o pipefail; "{BINARY}" run --debug-exit --kernel {code} {redirect}'
    done = subprocess.run(["bash", "-c", shell], stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stdout) == (9, b"")


def test_a_reader_that_is_late_gets_everything(start, kernel):
    process = start("run", "--kernel", kernel(guests.print_dots(300000) + guests.POWER_OFF))
    count = 0
    while data := process.stdout.read(7777):
        assert data.strip(b".") == b""
        count += len(data)
    assert (count, process.wait(TIMEOUT)) == (300000, 0)


def test_a_reader_that_reads_nothing_cannot_keep_umbra_alive(start, kernel):
    process = start("run", "--kernel", kernel(guests.PRINT_FOR_EVER))
    assert process.stdout.read(65536) == b"." * 65536
    process.terminate()
    assert process.wait(TIMEOUT) == 143


def test_standard_output_is_left_as_it_was(kernel):
    """Its description belongs to whoever started umbra as well: it must not stop blocking."""
    out, into = os.pipe()
    process = subprocess.Popen([BINARY, "run", "--kernel", kernel(READY + guests.SPIN)], stdin=subprocess.DEVNULL, stdout=into)
    printed = b""
    try:
        while len(printed) < 6:
            printed += os.read(out, 6)
        assert printed == b"ready "
        assert not fcntl.fcntl(into, fcntl.F_GETFL) & os.O_NONBLOCK
    finally:
        process.terminate()
        process.wait()
        os.close(out)
        os.close(into)


def test_a_socket_as_console_works(kernel):
    """It cannot be opened again for a description of its own."""
    import socket
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen([BINARY, "run", "--kernel", kernel(READY + guests.ECHO)], stdin=theirs, stdout=theirs)
        theirs.close()
        ours.settimeout(TIMEOUT)
        ours.sendall(b"abcq")
        received = b""
        while data := ours.recv(4096):
            received += data
        assert (received, process.wait(TIMEOUT)) == (b"ready abcq", 0)


def test_a_file_gets_the_console_and_standard_output_nothing(umbra, kernel, tmp_path):
    (tmp_path / "out.txt").write_text("from before, and longer than what comes")
    done = umbra("run", "--console", "file:out.txt", "--kernel", kernel(guests.print_dots(50000) + guests.POWER_OFF))
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "out.txt").read_text() == "." * 50000


def test_no_console_takes_no_input_and_gives_no_output(umbra, kernel):
    done = umbra("run", "--console", "none", "--kernel", kernel(guests.print_dots(50000) + guests.POWER_OFF), stdin=None, input="q" * 10)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
