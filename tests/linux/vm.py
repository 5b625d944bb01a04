"""Drives a guest through a pseudo-terminal: umbra, or QEMU to see whether a test or Umbra is wrong (UMBRA=qemu)."""
import ctypes
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GUEST = os.path.join(ROOT, "build", "guest")
KERNEL = os.path.join(GUEST, "cloud", "vmlinuz")
INITRD = os.path.join(GUEST, "initrd.cpio.gz")
APPEND = "console=ttyS0 quiet cryptomgr.notests"
BINARY = os.environ.get("UMBRA", os.path.join(ROOT, "build", "umbra"))
IS_QEMU = BINARY == "qemu"
# Umbra's console keeps Ctrl-a for itself: typed twice it goes to the guest.
CTRL_A = "\x01" if IS_QEMU else "\x01\x01"
PROMPT = r"umbra:\S+# (?:\x1b\[6n)?"
BANNER = "This is Umbra's default guest"
# Far more than a working guest takes: machines are shared, and a test says what holds, not how fast.
SCALE = float(os.environ.get("UMBRA_TIMEOUT_SCALE", "1"))
BOOT_TIMEOUT = 120
TIMEOUT = 60


# Of Umbra's builds with sanitizers.
REPORT = re.compile(r"(WARNING|ERROR): \w+Sanitizer|: runtime error: ")


class GuestError(AssertionError):
    """Something expected did not come; shows what came instead."""


def prepare_child():
    """The guest goes when the tests are killed, prctl(PR_SET_PDEATHSIG, SIGTERM), and owns its terminal as after a login."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def qemu_devices(disks, nets):
    """What --disk and --net mean to QEMU."""
    line = [] if nets else ["-nic", "none"]
    for n, disk in enumerate(disks):
        path, *options = disk.split(",")
        settings = dict(o.partition("=")[::2] for o in options)
        device = f"virtio-blk-pci,drive=disk{n}" + "".join(f",{us}={settings[them]}" for us, them in
                                                           (("serial", "serial"), ("num-queues", "queues")) if them in settings)
        line += ["-drive", f"if=none,id=disk{n},format=raw,file={path},discard=unmap,cache={'none' if 'direct' in settings else 'writeback'}"
                 + (",readonly=on" if "ro" in settings else ""), "-device", device]
    for n, net in enumerate(nets):
        kind, *options = net.split(",")
        forwards = [o for o in options if o.startswith("hostfwd=")]
        if kind == "user":
            # Ours: tcp:[HOSTADDR:]HOSTPORT:GUESTPORT; QEMU's: tcp:[HOSTADDR]:HOSTPORT-:GUESTPORT.
            theirs = [re.sub(r"^(hostfwd=\w+):(?:([\d.]+):)?(\d+):(\d+)$", lambda m: f"{m[1]}:{m[2] or '127.0.0.1'}:{m[3]}-:{m[4]}", f)
                      for f in forwards]
            line += ["-netdev", ",".join([f"user,id=net{n}"] + theirs)]
        else:
            line += ["-netdev", f"tap,id=net{n},ifname={kind.partition('=')[2]},script=no,downscript=no"]
        line += ["-device", f"virtio-net-pci,netdev=net{n}"]
    return line


def command_line(binary, kernel, initrd, append, memory, no_reboot, extra, disks=(), nets=()):
    if IS_QEMU:
        line = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-display", "none", "-monitor", "none", "-chardev", "stdio,id=tty,signal=off",
                "-serial", "chardev:tty", "-m", memory, "-kernel", kernel, "-append", append]
        line += ["-initrd", initrd] if initrd else []
        line += qemu_devices(disks, nets)
        return line + (["-no-reboot"] if no_reboot else []) + list(extra)
    line = [binary, "run", "--memory", memory, "--kernel", kernel, "--append", append]
    line += ["--initrd", initrd] if initrd else []
    line += [word for disk in disks for word in ("--disk", disk)] + [word for net in nets for word in ("--net", net)]
    return line + (["--no-reboot"] if no_reboot else []) + list(extra)


class Vm:
    """One guest. A context manager: the process is gone when the block ends, however it ends."""

    def __init__(self, kernel=KERNEL, initrd=INITRD, append=APPEND, memory="512M", no_reboot=False, extra=(), env=None,
                 answers=True, rows=40, columns=120, disks=(), nets=(), prompt=PROMPT, wrapper=(), binary=None):
        self.argv = list(wrapper) + command_line(binary or BINARY, kernel, initrd, append, memory, no_reboot, extra, disks, nets)
        self.shell_prompt = prompt
        self.env = dict(os.environ, **(env or {}))
        self.answers, self.rows, self.columns = answers, rows, columns
        self.seen = 0  # where in the output the next expectation starts
        self.output = ""
        self.master, self.process, self.commands = None, None, 0

    def __enter__(self):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", self.rows, self.columns, 0, 0))
        try:
            self.process = subprocess.Popen(self.argv, stdin=slave, stdout=slave, stderr=slave, env=self.env, start_new_session=True,
                                            preexec_fn=prepare_child)
        finally:
            os.close(slave)
        return self

    def __exit__(self, error, *_):
        try:
            self.stop()
            self.read_rest()
        finally:
            os.close(self.master)
        if not error and (report := REPORT.search(self.output)):
            raise GuestError(f"a sanitizer has something to report:\n{self.output[report.start():][:8000]}")

    def stop(self):
        """Ends the process that this object started, and nothing else."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def read_some(self, seconds):
        """Takes what the guest says within so many seconds; False when nothing more can come."""
        if not select.select([self.master], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: the other side is closed
            return False
        text = data.decode("utf-8", "replace")
        tail = self.output[-16:]
        self.output += text
        # The window's size, as a terminal would tell it.
        if self.answers and "\x1b[999;999H\x1b[6n" in tail + text and "\x1b[999;999H\x1b[6n" not in tail:
            self.send(f"\x1b[{self.rows};{self.columns}R")
        return bool(data)

    def fail(self, what):
        raise GuestError(f"{what}\ncommand: {' '.join(self.argv)}\n--- the end of what the guest said:\n{self.output[-3000:]}")

    def expect(self, pattern, timeout=TIMEOUT):
        """Waits for a regular expression; returns its match, and goes on behind it."""
        deadline = time.monotonic() + timeout * SCALE
        while True:
            match = re.compile(pattern).search(self.output, self.seen)
            if match:
                self.seen = match.end()
                return match
            left = deadline - time.monotonic()
            if left <= 0:
                self.fail(f"no {pattern!r} within {timeout * SCALE:.0f} s")
            if not self.read_some(min(left, 1)):
                if not re.compile(pattern).search(self.output, self.seen):
                    self.fail(f"ended, status {self.wait()}, before {pattern!r} came")

    def send(self, text):
        data = text.encode()
        while data:
            data = data[os.write(self.master, data):]

    def prompt(self, timeout=BOOT_TIMEOUT):
        self.expect(self.shell_prompt, timeout)

    def status_and_output(self, command, timeout=TIMEOUT):
        """Runs a command at the prompt: its status and what it printed."""
        self.commands += 1
        # What is typed is echoed: the marks are in two parts there. All is one line, since a second one could be echoed amid the output.
        self.send(f"echo BEGIN''{self.commands}; {command}; echo END''{self.commands} $?\n")
        self.expect(rf"BEGIN{self.commands}\r+\n")
        start = self.seen
        match = self.expect(rf"END{self.commands} (\d+)\r+\n", timeout)
        output = self.output[start:match.start()].replace("\r", "")
        self.expect(self.shell_prompt)
        return int(match.group(1)), output

    def run(self, command, timeout=TIMEOUT):
        status, output = self.status_and_output(command, timeout)
        if status:
            self.fail(f"{command!r} ended with status {status}")
        return output

    def wait(self, timeout=TIMEOUT):
        """The exit status, once the process has ended by itself."""
        deadline = time.monotonic() + timeout * SCALE
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                self.fail(f"still running after {timeout * SCALE:.0f} s")
            if not self.read_some(0.2):
                time.sleep(0.05)
        self.read_rest()
        return self.process.returncode

    def read_rest(self):
        """What an ended process has left to read."""
        while self.read_some(0) and select.select([self.master], [], [], 0)[0]:
            pass

    def signal(self, number=signal.SIGTERM):
        os.kill(self.process.pid, number)
