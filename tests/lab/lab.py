"""The lab: runs a test inside L1, an emulated machine with Debian's kernel and a real kvm-amd or kvm-intel, and brings back what came of it.

QEMU's TCG is the machine, or Bochs (qemu.py, bochs.py). Its first serial port is L1's console, its second is what the test prints, as it prints it;
a disk carries back what the test left in /out. A test that takes too long is ended by L1 itself, which tells where it stood; when L1 gives no sign
of life either, the emulator tells. Everything lies in build/lab/NAME afterwards:

    test.log        what the test printed          console.log     L1's kernel
    out/            L1's /out, with dmesg.txt      qemu.log        the emulator's complaints (bochs.log)
    registers.txt   L1's CPUs, when L1 hung        command         the emulator's command line

An L1 that hangs is the emulator's fault, not the test's (docs/testing.md). run() tries such a test once more, with the first try's files in
build/lab/NAME.hung, and says so.
"""
import ctypes
import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
import tarfile
import time
import warnings

import bochs
import initramfs
import qemu

ROOT = initramfs.ROOT
EMULATORS = {"qemu": qemu, "bochs": bochs}
UMBRA = os.path.realpath(os.environ.get("UMBRA", os.path.join(ROOT, "build", "umbra")))
# Far more than a working test takes: machines are shared, and a test says what holds, not how fast.
SCALE = float(os.environ.get("UMBRA_TIMEOUT_SCALE", "1"))
BOOT_S = 120  # beside the test's own limit: from power-on to the test, and from its end to power-off
SIGN_OF_LIFE = "lab: L1 lives"  # on L1's console, every 5 s once its init runs
SILENCE_S = 60
OUT_BYTES = 2080 * 16 * 63 * 512  # whole cylinders
TAIL = 30
# Where a kernel begins to tell why it cannot go on.
TROUBLE = re.compile(r"^.*(Kernel panic|BUG:|Oops:|general protection fault|unable to handle|INFO: task|rcu:.*stall)", re.M)
# A panic tells of all CPUs and ends the machine, and an NMI is a panic. A lost tick at boot is no reason to panic.
APPEND = "console=ttyS0,115200 panic=-1 panic_print=0x40 unknown_nmi_panic tsc=reliable mitigations=off cryptomgr.notests no_timer_check"


class LabError(AssertionError):
    """The test failed, or could not be run to its end."""


class L1Hung(LabError):
    """L1 itself stands still, which no test can be blamed for."""


@dataclasses.dataclass
class Machine:
    """L1 as a test wants it."""

    emulator: str = "qemu"  # AMD's CPU, or "bochs": Intel's
    npt: bool = True  # nested page tables; without, KVM shadows the guest's page tables itself
    cpus: int = 1
    memory_mib: int = 2048
    limit_s: int = 120  # for the test itself
    programs: tuple = ()  # executables of the host's for L1's /bin, with their libraries
    files: dict = dataclasses.field(default_factory=dict)  # {path in L1: path on the host, or bytes}
    devices: tuple = ()  # more arguments for QEMU
    umbra: str = UMBRA  # the build that lies in L1


@dataclasses.dataclass
class Result:
    status: int
    output: str  # what the test printed
    folder: str

    def file(self, name):
        """What the test left in /out."""
        with open(os.path.join(self.folder, "out", name), encoding="utf-8", errors="replace") as f:
            return f.read()


def missing(emulator="qemu"):
    """Why the lab cannot run here, or None."""
    if why := EMULATORS[emulator].missing():
        return why
    for path, how in ((initramfs.KERNEL, "make guest"), (initramfs.BUSYBOX, "make guest"), (UMBRA, "make")):
        if not os.path.exists(path):
            return f"{path} is missing: {how}"
    return None


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read().replace("\r", "")
    except FileNotFoundError:
        return ""


def indented(lines):
    return "\n".join("    " + line for line in lines)


def tail(path):
    return indented(read(path).rstrip("\n").split("\n")[-TAIL:])


def last_words(path):
    """The last lines of a test; of one that took too long, those before that and all that was found out about it."""
    lines = read(path).rstrip("\n").split("\n")
    hung = [number for number, line in enumerate(lines) if line.startswith("lab: time is up")]
    return indented(lines[max(hung[0] - TAIL, 0):] if hung else lines[-TAIL:])


def trouble(path):
    """A kernel's first complaint and what follows, or its last lines where it has none."""
    text = "\n".join(line for line in read(path).rstrip("\n").split("\n") if SIGN_OF_LIFE not in line)
    first = TROUBLE.search(text)
    return indented(text[first.start():].split("\n")[:2 * TAIL] if first else text.split("\n")[-TAIL:])


class Run:
    """One run of one test. Follow it with wait()."""

    def __init__(self, name, machine, test, arguments=(), shell=False, follow=None):
        """follow: called with each line that the test prints. shell: a shell on this terminal instead of a test."""
        self.machine, self.shell, self.follow = machine, shell, follow
        self.emulator = EMULATORS[machine.emulator]
        self.folder = os.path.join(ROOT, "build", "lab", re.sub(r"[^\w.-]+", "_", name).strip("_"))
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        self.log, self.console = self.path("test.log"), self.path("console.log")
        self.limit_s = int(machine.limit_s * SCALE)
        self.scale = SCALE * self.emulator.SECOND_S
        settings = {"NPT": int(machine.npt), "DISK": self.emulator.DISK, "LIMIT_S": self.limit_s,
                    "ARGS": shlex.quote("--shell" if shell else shlex.join(arguments))}
        initramfs.build(self.path("initramfs"), machine.umbra, test, settings, machine.programs, machine.files)
        with open(self.path("disk"), "wb") as f:
            f.truncate(OUT_BYTES)
        self.process, self.printed = None, 0
        self.signs, self.last_sign = 0, time.monotonic()

    def path(self, name):
        return os.path.join(self.folder, name)

    def start(self):
        command = self.emulator.command(self, f"{APPEND} {self.emulator.APPEND}")
        with open(self.path("command"), "w", encoding="utf-8") as f:
            f.write(shlex.join(command) + "\n")
        with open(self.path(self.emulator.LOG), "ab") as errors:
            # The machine goes when the tests are killed: prctl(PR_SET_PDEATHSIG, SIGTERM).
            self.process = subprocess.Popen(command, cwd=self.folder, stderr=errors, stdout=None if self.shell else errors,
                                            stdin=None if self.shell else subprocess.PIPE, env=os.environ | self.emulator.ENVIRONMENT,
                                            preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGTERM))

    def follow_log(self):
        """Hands on the lines that came since the last time."""
        text = read(self.log)
        end = text.rfind("\n") + 1
        if self.follow and end > self.printed:
            for line in text[self.printed:end].splitlines():
                self.follow(line)
        self.printed = max(self.printed, end)

    def lives(self):
        """Whether L1 gave a sign of life lately; the first one may take as long as booting."""
        signs = read(self.console).count(SIGN_OF_LIFE)
        if signs > self.signs:
            self.signs, self.last_sign = signs, time.monotonic()
        return time.monotonic() - self.last_sign < (SILENCE_S if signs else BOOT_S) * self.scale

    def ended_within(self, seconds, unless=lambda: False):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not unless():
            self.follow_log()
            try:
                self.process.wait(0.2)
                self.follow_log()
                return True
            except subprocess.TimeoutExpired:
                pass
        return False

    def stop(self):
        """Ends the emulator, and nothing else."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def fail(self, what, error=LabError):
        __tracebackhide__ = True
        raise error(f"{what}\n--- the test's last lines ({self.log}):\n{last_words(self.log)}\n"
                       f"--- L1's kernel ({self.console}):\n{trouble(self.console)}\n--- {self.emulator.NAME}:\n{tail(self.path(self.emulator.LOG))}")

    def collect(self):
        """Unpacks what L1 put on the disk."""
        out = self.path("out")
        os.makedirs(out)
        with tarfile.open(self.path("disk")) as archive:
            for member in archive:
                if member.isfile() or member.isdir():
                    member.mode |= 0o600
                    archive.extract(member, out)

    def wait(self):
        """The Result of a test that came to its end, whatever its status."""
        __tracebackhide__ = True
        try:
            self.start()
            start = time.monotonic()
            if self.shell:
                self.process.wait()
                return Result(0, "", self.folder)
            if not self.ended_within((self.limit_s / SCALE + BOOT_S) * self.scale, unless=lambda: not self.lives()):
                now = time.monotonic()
                self.emulator.tell_where_it_hangs(self)
                self.fail(f"L1 hung: it runs for {now - start:.0f} s, and its last sign of life is {now - self.last_sign:.0f} s old", L1Hung)
            text = read(self.log)
            ended = re.search(r"^lab: status (\d+)\n", text, re.M)
            if not ended:
                self.fail(f"L1 ended before the test did; {self.emulator.NAME}'s status is {self.process.returncode}")
            self.collect()
            return Result(int(ended[1]), text, self.folder)
        finally:
            self.stop()
            for name in ("disk", "initramfs", *self.emulator.LEFTOVERS):
                if os.path.exists(self.path(name)):
                    os.unlink(self.path(name))


def run(name, test, arguments=(), follow=None, **machine):
    """Runs a test that has to succeed: its Result. Keywords are those of Machine; LabError says what went wrong."""
    __tracebackhide__ = True
    one = Run(name, Machine(**machine), test, arguments, follow=follow)
    try:
        result = one.wait()
    except L1Hung as e:
        kept = one.folder + ".hung"
        shutil.rmtree(kept, ignore_errors=True)
        os.rename(one.folder, kept)
        print(e)
        warnings.warn(f"{name}: L1 hung and the test is run ONCE MORE; the first try is in {kept}", stacklevel=2)
        one = Run(name, Machine(**machine), test, arguments, follow=follow)
        result = one.wait()
    if result.status:
        one.fail(f"{os.path.basename(test)} ended with status {result.status}"
                 + (f": it took longer than {one.limit_s} s" if result.status == 124 else ""))
    return result
