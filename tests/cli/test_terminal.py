"""The console on a terminal: the escape key, job control, and the terminal given back in every case."""
import os
import signal
import termios

import pytest

import guests
from conftest import BINARY

READY = guests.say("ready ")


@pytest.fixture
def echo(terminal, kernel):
    t = terminal("run", "--kernel", kernel(READY + guests.ECHO))
    t.expect(b"ready ")
    assert t.is_raw()
    return t


def test_every_other_key_goes_to_the_guest(echo):
    echo.send(b"\x03\x1a\x1c\x11\x13\x04 a\r\n\xff")
    echo.expect(b"\x03\x1a\x1c\x11\x13\x04 a\r\n\xff")
    echo.send(b"q")
    assert echo.wait() == 0
    assert echo.is_as_before()


def test_ctrl_a_x_quits_with_status_0(echo):
    echo.send(b"\x01x")
    assert echo.wait() == 0
    assert echo.is_as_before()


@pytest.mark.parametrize("key", [b"h", b"?", b"w"])
def test_ctrl_a_h_helps_and_the_guest_goes_on(echo, key):
    echo.send(b"\x01" + key)
    for line in (b"Ctrl-a x", b"Ctrl-a h", b"Ctrl-a s", b"Ctrl-a a"):
        echo.expect(b"umbra: " + line)
    echo.expect(b"\r\n")
    echo.send(b"z")
    echo.expect(b"z")


def test_ctrl_a_s_shows_statistics_and_the_terminal_is_raw_again(echo):
    echo.send(b"\x01s")
    echo.expect(b"statistics of umbra-")
    echo.expect(b"PIO")
    echo.until(echo.is_raw, "raw mode")
    echo.send(b"z")
    echo.expect(b"z")


def test_ctrl_a_twice_sends_one(echo):
    echo.send(b"<\x01\x01>")
    echo.expect(b"<\x01>")


def test_ctrl_a_b_sends_a_break(terminal, kernel):
    # Waits for LSR.BI, and ends with status 3.
    t = terminal("run", "--debug-exit", "--kernel", kernel(READY + b"\x66\xba\xfd\x03\xec\xa8\x10\x74\xf7" + guests.debug_exit(1)))
    t.expect(b"ready ")
    t.send(b"\x01b")
    assert t.wait() == 3


@pytest.mark.parametrize("code", [guests.SPIN, guests.STOP, guests.RESET, guests.PRINT_FOR_EVER], ids=["spin", "halt", "reset", "print"])
def test_ctrl_a_x_quits_whatever_the_guest_does(terminal, kernel, code):
    t = terminal("run", "--kernel", kernel(READY + code))
    t.expect(b"ready ")
    t.send(b"\x01x")
    assert t.wait() == 0
    assert t.is_as_before()


def test_typing_that_the_guest_never_reads_does_not_block_the_escape_key(terminal, kernel):
    t = terminal("run", "--kernel", kernel(READY + guests.SPIN))
    t.expect(b"ready ")
    for _ in range(50):
        t.send(b"x" * 200)
    t.send(b"\x01x")
    assert t.wait() == 0


@pytest.mark.parametrize("code, args, status", [
    (guests.POWER_OFF, [], 0), (guests.TRIPLE_FAULT, [], 3), (guests.RESET, ["--no-reboot"], 0),
    (guests.debug_exit(9), ["--debug-exit"], 19), (guests.say("\n---[ end Kernel panic - not syncing: x ]---\n"), [], 4),
], ids=["power-off", "triple-fault", "reset", "debug-exit", "panic"])
def test_the_terminal_is_restored_however_the_guest_ends(terminal, kernel, code, args, status):
    t = terminal("run", *args, "--kernel", kernel(READY + code + guests.SPIN))
    assert t.wait() == status
    assert b"ready " in t.output
    assert t.is_as_before()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_the_terminal_is_restored_when_a_signal_ends_umbra(echo, number):
    echo.process.send_signal(number)
    assert echo.wait() == 128 + number
    assert echo.is_as_before()
    # Its last line began in raw mode or in none, but is a line.
    echo.expect(b"ended by signal")


def test_the_terminal_is_restored_when_umbra_aborts(echo):
    echo.process.send_signal(signal.SIGABRT)
    assert echo.wait() == -signal.SIGABRT
    assert echo.is_as_before()


def test_an_error_leaves_the_terminal_alone(terminal):
    t = terminal("run", "--kernel", "/nonexistent")
    assert t.wait() == 1
    assert t.is_as_before()


def state(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        return f.read().rsplit(")", 1)[1].split()[0]


def test_a_stop_gives_the_terminal_back_and_going_on_takes_it_again(echo):
    echo.process.send_signal(signal.SIGTSTP)
    echo.until(lambda: state(echo.process.pid) == "T", "a stop")
    assert echo.is_as_before()
    echo.process.send_signal(signal.SIGCONT)
    echo.until(echo.is_raw, "raw mode")
    echo.send(b"z")
    echo.expect(b"z")
    echo.send(b"\x01x")
    assert echo.wait() == 0
    assert echo.is_as_before()


def test_a_terminal_changed_during_a_stop_is_raw_again_afterwards(echo):
    os.kill(echo.process.pid, signal.SIGSTOP)
    echo.until(lambda: state(echo.process.pid) == "T", "a stop")
    termios.tcsetattr(echo.slave, termios.TCSANOW, echo.before)
    echo.process.send_signal(signal.SIGCONT)
    echo.until(echo.is_raw, "raw mode")


def test_in_the_background_it_runs_and_in_the_foreground_it_has_the_terminal(terminal, kernel, tmp_path):
    os.mkfifo(tmp_path / "go")
    code = kernel(READY + guests.ECHO)
    t = terminal(shell=f'"{BINARY}" run --kernel {code} & read -r line < {tmp_path}/go; fg %1; echo "status $?"')
    t.expect(b"ready ")
    assert t.is_as_before()
    t.send(b"typed for somebody else\n")
    t.expect(b"else")
    t.read_some(0.5)
    (tmp_path / "go").write_text("now\n")
    t.until(t.is_raw, "raw mode")
    t.send(b"z")
    t.expect(b"z")
    t.send(b"\x01x")
    t.expect(b"status 0")
    t.wait()
    assert t.is_as_before()


def test_a_terminal_of_no_session_is_used_all_the_same(kernel):
    """As under programs that start umbra in a session of its own."""
    import pty
    import subprocess

    from conftest import Terminal

    class Uncontrolled(Terminal):
        def __init__(self, argv):
            self.master, self.slave = pty.openpty()
            self.before = termios.tcgetattr(self.slave)
            self.output = b""
            self.process = subprocess.Popen(argv, stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True)

    t = Uncontrolled([BINARY, "run", "--kernel", kernel(READY + guests.ECHO)])
    try:
        t.expect(b"ready ")
        assert t.is_raw()
        t.send(b"\x01x")
        assert t.wait() == 0
        assert t.is_as_before()
    finally:
        t.close()
