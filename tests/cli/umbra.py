"""Starts umbra as a user does: with files and pipes, or on a terminal. Every wait has an end, and every process is stopped by its id."""
import ctypes
import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.path.abspath(os.environ.get("UMBRA", os.path.join(ROOT, "build", "umbra")))
GUESTS = os.path.abspath(os.environ.get("GUESTS", os.path.join(ROOT, "build", "release", "guest")))
VMLINUZ = os.path.join(ROOT, "build", "guest", "cloud", "vmlinuz")
TIMEOUT = 20 * float(os.environ.get("UMBRA_TIMEOUT_SCALE", "1"))


def run(*args, **keywords):
    """umbra ARGS to its end: returncode, stdout and stderr as text."""
    keywords = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": TIMEOUT, **keywords}
    return subprocess.run([BINARY, *args], check=False, text=True, errors="replace", **keywords)


def complaint(result, status):
    """The one sentence of a run that failed as it should."""
    assert result.returncode == status, result
    assert not result.stdout
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("umbra: ") and result.stderr.endswith("\n"), result.stderr
    return lines[0].removeprefix("umbra: ")


def settings():
    """Every setting of run --help: its name, and what stands for its value ("" for none, "[=FILE]" for one that may be left out)."""
    found = re.findall(r"^  --([a-z0-9-]+)(\[=\S+\]| \S+)?(?:\s|$)", run("run", "--help").stdout, re.MULTILINE)
    return {name: value.strip() for name, value in found}


def leaves_no_child():
    """True when umbra took every process of its own along: conftest.py makes orphans children of this process."""
    try:
        return os.waitpid(-1, os.WNOHANG) is None
    except ChildProcessError:
        return True


def wait_for(condition, what):
    deadline = time.monotonic() + TIMEOUT
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {TIMEOUT:.0f} s"
        time.sleep(0.02)


def state(pid):
    """One letter, as in ps: R or S, T when stopped, Z when dead."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        return f.read().rpartition(")")[2].split()[0]


def with_parent():
    """umbra goes when the tests are killed: prctl(PR_SET_PDEATHSIG, SIGKILL)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Process:
    """umbra, running; a context manager, after which it is gone. Its output is read from one descriptor."""

    def __init__(self, *args, **keywords):
        self.args, self.keywords = args, keywords
        self.process, self.fd = None, None
        self.output, self.seen = "", 0

    def start(self):
        keywords = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **self.keywords}
        self.process = subprocess.Popen([BINARY, *self.args], preexec_fn=with_parent, **keywords)
        self.fd = self.process.stdout.fileno() if self.process.stdout else None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for f in (self.process.stdin, self.process.stdout, self.process.stderr):
            if f:
                f.close()

    @property
    def pid(self):
        return self.process.pid

    def signal(self, number):
        os.kill(self.process.pid, number)

    def read_some(self, seconds):
        """False once nothing more can come."""
        if self.fd is None or not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # EIO: nobody has the terminal any more
            return False
        self.output += data.decode(errors="replace")
        return bool(data)

    def expect(self, pattern):
        """Waits for a regular expression in the output, and goes on behind it."""
        deadline = time.monotonic() + TIMEOUT
        more = True
        while True:
            match = re.compile(pattern).search(self.output, self.seen)
            if match:
                self.seen = match.end()
                return match
            left = deadline - time.monotonic()
            assert more and left > 0, f"no {pattern!r} (status {self.process.poll()}), but: {self.output[-2000:]!r}"
            more = self.read_some(left)

    def wait(self):
        """The status, as the shell would show it; takes what output there is meanwhile."""
        deadline = time.monotonic() + TIMEOUT
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still running after {TIMEOUT:.0f} s; it said {self.output[-2000:]!r}"
            if not self.read_some(0.05):
                time.sleep(0.02)
        self.take_rest()
        return self.process.returncode

    def take_rest(self):
        while self.fd is not None and select.select([self.fd], [], [], 0)[0] and self.read_some(0):
            pass


class Terminal(Process):
    """umbra in the foreground of a terminal of its own; this side is the person in front of it."""

    def __init__(self, *args, **keywords):
        super().__init__(*args, **keywords)
        self.slave = None
        self.before = None

    def start(self):
        self.fd, self.slave = pty.openpty()
        attributes = termios.tcgetattr(self.slave)
        attributes[6][termios.VKILL] = b"\x0b"  # something of the user's own, which must come back
        termios.tcsetattr(self.slave, termios.TCSANOW, attributes)
        self.before = self.attributes()
        keywords = {"stdin": self.slave, "stdout": self.slave, "stderr": self.slave, **self.keywords}
        self.process = subprocess.Popen([BINARY, *self.args], start_new_session=True, preexec_fn=self.take_terminal, **keywords)

    def take_terminal(self):
        with_parent()
        fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)

    def __exit__(self, *arguments):
        try:
            super().__exit__(*arguments)
        finally:
            os.close(self.fd)
            os.close(self.slave)

    def attributes(self):
        return termios.tcgetattr(self.slave)

    def is_raw(self):
        return not self.attributes()[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def type(self, keys):
        os.write(self.fd, keys.encode())

    def wait(self):
        status = super().wait()
        assert self.attributes() == self.before, "the terminal is not as it was"
        return status
