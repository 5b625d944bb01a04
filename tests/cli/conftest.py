"""What the tests of the command line share: running umbra, on pipes or on a terminal of its own."""
import fcntl
import os
import pty
import select
import subprocess
import tempfile
import termios
import time

import pytest

import guests

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.path.abspath(os.environ.get("UMBRA", os.path.join(ROOT, "build", "umbra")))
# Far more than anything here takes: machines are shared, and a test says what holds, not how fast.
TIMEOUT = 60 * float(os.environ.get("UMBRA_TIMEOUT_SCALE", "1"))


@pytest.fixture(scope="session", autouse=True)
def binary():
    if not os.path.exists(BINARY):
        pytest.exit(f"{BINARY} is missing: make", 2)


def complaints(stderr):
    """All but the note about the engine, which a host with a /dev/kvm without hardware behind it gives cause to."""
    return "".join(line for line in stderr.splitlines(True) if not line.startswith("umbra: the software engine runs this guest: "))


def pytest_configure(config):
    config.addinivalue_line("markers", "soak: takes minutes; only make soak runs it")


@pytest.fixture(scope="session", autouse=True)
def runtime_dir():
    """VMs of other test runs have names too."""
    before = os.environ.get("XDG_RUNTIME_DIR")
    with tempfile.TemporaryDirectory(prefix="umbra-test-") as path:
        os.environ["XDG_RUNTIME_DIR"] = path
        yield path
    if before is None:
        del os.environ["XDG_RUNTIME_DIR"]
    else:
        os.environ["XDG_RUNTIME_DIR"] = before


@pytest.fixture(autouse=True)
def no_names_of_others(runtime_dir):
    """Tests kill their VMs, which leaves names behind."""
    yield
    folder = f"{runtime_dir}/umbra"
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        os.unlink(f"{folder}/{name}")


@pytest.fixture
def umbra(tmp_path):
    """umbra(ARGS...): runs it to its end in an empty folder, with nothing on standard input. stderr has its complaints()."""

    def run(*args, **more):
        more = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": TIMEOUT, **more}
        done = subprocess.run([BINARY, *args], cwd=tmp_path, text=True, errors="replace", check=False, **more)
        done.stderr = done.stderr and complaints(done.stderr)
        return done

    return run


@pytest.fixture
def kernel(tmp_path):
    """kernel(CODE): the path of a guest; it is not in the folder that umbra runs in."""
    count = 0

    def make(code, **more):
        nonlocal count
        count += 1
        path = tmp_path.parent / f"{tmp_path.name}-{count}.kernel"
        path.write_bytes(guests.image(code, **more))
        return str(path)

    return make


@pytest.fixture
def start(tmp_path):
    """start(ARGS...): begins umbra on pipes; it is gone when the test ends."""
    started = []

    def begin(*args, **more):
        more = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        started.append(subprocess.Popen([BINARY, *args], cwd=tmp_path, **more))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for f in (process.stdin, process.stdout, process.stderr):
            if f:
                f.close()


@pytest.fixture
def running(start, kernel):
    """running(CODE, ARGS..., name=...): a VM with this guest, which has said "up". It has its control socket by then."""

    def begin(code, *args, name="box", **more):
        process = start("run", "--name", name, "--memory", "4M", "--kernel", kernel(guests.say("up") + code), *args, **more)
        assert process.stdout.read(2) == b"up"
        return process

    return begin


class Terminal:
    """A pseudo-terminal that is the controlling one of the command that runs on it."""

    def __init__(self, argv):
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.output = b""
        self.process = subprocess.Popen(argv, stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.slave)
        os.close(self.master)

    def read_some(self, seconds):
        if select.select([self.master], [], [], seconds)[0]:
            self.output += os.read(self.master, 65536)

    def until(self, holds, what):
        deadline = time.monotonic() + TIMEOUT
        while not holds():
            assert time.monotonic() < deadline, f"{what} did not come; the output: {self.output[-2000:]!r}"
            self.read_some(0.05)

    def expect(self, data):
        """Waits until data was printed, and forgets the output up to it."""
        self.until(lambda: data in self.output, repr(data))
        seen, self.output = self.output.split(data, 1)
        return seen

    def send(self, data):
        os.write(self.master, data)

    def is_raw(self):
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def is_as_before(self):
        return termios.tcgetattr(self.slave) == self.before

    def wait(self):
        self.until(lambda: self.process.poll() is not None, "the end")
        self.read_some(0)
        return self.process.returncode


@pytest.fixture
def terminal():
    """terminal(ARGS...): begins umbra on a terminal of its own. shell=COMMAND: bash with job control instead."""
    opened = []

    def begin(*args, shell=None):
        argv = ["bash", "-m", "-c", shell] if shell else [BINARY, *args]
        opened.append(Terminal(argv))
        return opened[-1]

    yield begin
    for t in opened:
        t.close()
