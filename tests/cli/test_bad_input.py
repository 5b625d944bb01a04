"""Whatever is wrong with what the user gave: one sentence that names it, the right status, nothing left behind."""
import os

import pytest

import guests
from conftest import ROOT

USAGE, HOST = 2, 1
CLOUD = os.path.join(ROOT, "build", "guest", "cloud", "vmlinuz")


def refused(done, status, *words):
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("umbra: "), done.stderr
    for word in words:
        assert word in lines[0], done.stderr


@pytest.mark.parametrize("args, words", [
    ([], ["command is missing"]),
    (["start"], ["'start'", "umbra stat"]),
    (["--verison"], ["'--verison'"]),
    (["--version", "now"], ["'now'"]),
    (["run"], ["no kernel", "--kernel FILE"]),
    (["run", "vmlinuz"], ["'vmlinuz'", "--kernel FILE"]),
    (["run", "-k", "vmlinuz"], ["'-k'"]),
    (["run", "--"], ["'--'"]),
    (["run", "--kernal", "K"], ["--kernal", "did you mean --kernel?"]),
    (["run", "--mem=1G"], ["--mem"]),
    (["run", "--memroy", "1G"], ["did you mean --memory?"]),
    (["run", "--kernel"], ["--kernel needs a value"]),
    (["run", "--kernel="], ["--kernel needs the name of a file"]),
    (["run", "--kernel", "K", "--no-reboot=yes"], ["--no-reboot takes no value", "'yes'"]),
    (["run", "--kernel", "K", "--debug-exit=1"], ["--debug-exit takes no value"]),
    (["run", "--kernel", "K", "--memory", "lots"], ["--memory", "'lots'", "512M"]),
    (["run", "--kernel", "K", "--memory", "-1"], ["--memory", "'-1'"]),
    (["run", "--kernel", "K", "--memory", "1G,private"], ["SIZE,shared"]),
    (["run", "--kernel", "K", "--memory", "99999999999999999999"], ["more than any machine"]),
    (["run", "--kernel", "K", "--memory", "1M"], ["1M", "at least 2M"]),
    (["run", "--kernel", "K", "--memory", "100T"], ["100T", "at most"]),
    (["run", "--kernel", "K", "--memory", "4194305"], ["multiple of 4K"]),
    (["run", "--kernel", "K", "--cpus", "65"], ["--cpus", "1 to 64", "'65'"]),
    (["run", "--kernel", "K", "--cpus", "0"], ["--cpus", "1 to 64", "'0'"]),
    (["run", "--kernel", "K", "--cpus", "8,sockets=3"], ["--cpus of 8", "sockets=3"]),
    (["run", "--kernel", "K", "--cpus", "2", "--pin", "0,1:1,2:0"], ["--pin names CPU 2", "the machine has 2"]),
    (["run", "--kernel", "K", "--pin", "1023"], ["--pin names CPU 1023 of the host"]),
    (["run", "--kernel", "K", "--pin", "0@1"], ["--pin", "'0@1'"]),
    (["run", "--kernel", "K", "--memory", "256G"], ["256G", "at most 255G", "PCI"]),
    (["run", "--kernel", "K", "--disk", "d.img,rw"], ["--disk", "'rw'", "ro, direct"]),
    (["run", "--kernel", "K", "--disk", ""], ["--disk", "name of a file"]),
    (["run", "--kernel", "K", "--disk", "d.img,queues=99"], ["queues", "1 to 16"]),
    (["run", "--kernel", "K", "--disk", "d.img", "--disk", "d.img"], ["d.img", "twice"]),
    (["run", "--kernel", "K", "--net", "bridge"], ["--net", "user, tap=IFNAME, fd=N or none"]),
    (["run", "--kernel", "K", "--net", "user,mac=52:54:00:12:34"], ["mac", "six bytes"]),
    (["run", "--kernel", "K", "--net", "user,mac=01:00:5e:00:00:01"], ["multicast"]),
    (["run", "--kernel", "K", "--net", "user,hostfwd=tcp:80"], ["tcp:[HOSTADDR:]HOSTPORT:GUESTPORT"]),
    (["run", "--kernel", "K", "--net", "user,hostfwd=tcp:80:80,hostfwd=tcp:80:81"], ["TCP port 80"]),
    (["run", "--kernel", "K", "--net", "none", "--net", "user"], ["--net none"]),
    (["run", "--kernel", "K", "--rng", "maybe"], ["--rng", "on, off"]),
    (["run", "--kernel", "K", "--rng", "on,rate=0"], ["--rng", "rate"]),
    (["run", "--kernel", "K", "--queue-work", "thread"], ["loop or inline"]),
    (["run", "--kernel", "K", "--console", "hvc0"], ["tty, virtio, none or file:PATH"]),
    (["run", "--kernel", "K", "--cpus", "many"], ["--cpus", "'many'"]),
    (["run", "--kernel", "K", "--engine", "tcg"], ["--engine", "auto, kvm or soft", "'tcg'"]),
    (["run", "--kernel", "K", "--console", "serial"], ["--console", "'serial'", "file:PATH"]),
    (["run", "--kernel", "K", "--name", "a b"], ["'a b'"]),
    (["run", "--kernel", "K", "--name", ""], ["name is empty"]),
    (["run", "--kernel", "K", "--name", "x" * 65], ["at most 64"]),
    (["run", "--kernel", "K", "--stats="], ["--stats"]),
    (["run", "--kernel", "K", "--console", "file:same", "--stats=same"], ["same", "cannot both"]),
    (["run", "--Append", "x"], ["did you mean --append?"]),
    (["run", "--kernel", "K", "--config"], ["--config needs a value"]),
    (["run", "--kernel", "K", "--config", "/nonexistent.json"], ["/nonexistent.json", "No such file"]),
    (["run", "--kernel", "K", "--config", "/"], ["configuration /"]),
])
def test_usage_errors_have_status_2_and_say_what_is_wrong(umbra, args, words):
    refused(umbra(*args), USAGE, *words)


@pytest.mark.parametrize("flag", ["smp", "vfio", "vhost", "snapshot", "api", "share", "balloon", "vsock"])
def test_flags_that_this_version_does_not_have_are_refused(umbra, kernel, flag):
    refused(umbra("run", "--kernel", kernel(guests.POWER_OFF), f"--{flag}", "x"), USAGE, f"--{flag}")


@pytest.fixture
def refused_run(umbra, tmp_path):
    """Runs with what would make files, and sees that none was made."""

    def run(status, words, *args):
        before = sorted(os.listdir(tmp_path))
        refused(umbra("run", *args, "--console", "file:left.txt", "--stats=left.json"), status, *words)
        assert sorted(os.listdir(tmp_path)) == before

    return run


def test_a_missing_kernel(refused_run):
    refused_run(HOST, ["kernel", "/nonexistent/vmlinuz", "does not exist"], "--kernel", "/nonexistent/vmlinuz")


def test_a_directory_as_kernel_or_initrd(refused_run, kernel):
    refused_run(HOST, ["kernel /usr", "directory"], "--kernel", "/usr")
    refused_run(HOST, ["initrd /usr", "directory"], "--kernel", kernel(guests.POWER_OFF), "--initrd", "/usr")


def test_an_empty_kernel(refused_run):
    refused_run(HOST, ["/dev/null"], "--kernel", "/dev/null")


def test_a_kernel_without_permission(refused_run, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (tmp_path / "secret").touch(mode=0)
    refused_run(HOST, ["secret", "Permission denied"], "--kernel", "secret")


def test_something_that_is_no_kernel(refused_run):
    refused_run(HOST, ["/etc/passwd", "none that umbra boots"], "--kernel", "/etc/passwd")


@pytest.mark.parametrize("length", [33, 0x400, 0x10000, 0x400000])
def test_a_truncated_kernel(refused_run, tmp_path, length):
    if not os.path.exists(CLOUD):
        pytest.skip(f"{CLOUD} is missing: make guest")
    with open(CLOUD, "rb") as f:
        (tmp_path / "vmlinuz").write_bytes(f.read(length))
    refused_run(HOST, ["vmlinuz"], "--kernel", "vmlinuz")


def test_memory_below_what_the_kernel_needs(refused_run, kernel):
    path = kernel(guests.POWER_OFF, load=0x4000000)
    refused_run(HOST, [path, "memory"], "--memory", "8M", "--kernel", path)


def test_memory_below_what_linux_needs(refused_run):
    if not os.path.exists(CLOUD):
        pytest.skip(f"{CLOUD} is missing: make guest")
    refused_run(HOST, ["vmlinuz", "memory"], "--memory", "16M", "--kernel", CLOUD)


def test_an_initrd_larger_than_memory(refused_run, kernel, tmp_path):
    with open(tmp_path / "large.cpio", "wb") as f:
        f.truncate(64 << 20)
    refused_run(HOST, ["large.cpio", "memory"], "--memory", "32M", "--kernel", kernel(guests.POWER_OFF), "--initrd", "large.cpio")


def test_a_kernel_larger_than_memory(refused_run, kernel):
    path = kernel(guests.POWER_OFF + bytes(5 << 20))
    refused_run(HOST, [path, "memory"], "--memory", "4M", "--kernel", path)


def test_what_fails_early_keeps_the_console_of_the_last_run(umbra, tmp_path):
    (tmp_path / "kept").write_text("from the last run")
    refused(umbra("run", "--kernel", "/nonexistent", "--console", "file:kept"), HOST, "/nonexistent")
    assert (tmp_path / "kept").read_text() == "from the last run"


def test_a_missing_initrd(refused_run, kernel):
    refused_run(HOST, ["initrd", "none.cpio"], "--kernel", kernel(guests.POWER_OFF), "--initrd", "none.cpio")


def test_a_command_line_that_is_too_long(refused_run, kernel):
    refused_run(HOST, ["command line"], "--kernel", kernel(guests.POWER_OFF), "--append", "x" * 70000)


def test_a_console_file_that_cannot_be_written(umbra, kernel, tmp_path):
    path = kernel(guests.POWER_OFF)
    refused(umbra("run", "--kernel", path, "--console", "file:no/such/place"), HOST, "console", "no/such/place")
    refused(umbra("run", "--kernel", path, "--console", "file:/usr"), HOST, "console", "/usr")
    os.mkfifo(tmp_path / "fifo")
    refused(umbra("run", "--kernel", path, "--console", "file:fifo"), HOST, "console", "fifo")
    assert os.listdir(tmp_path) == ["fifo"]


def test_statistics_that_cannot_be_written_are_said_before_the_guest_runs(umbra, kernel):
    done = umbra("run", "--kernel", kernel(guests.say("x") + guests.POWER_OFF), "--stats=no/such/place")
    refused(done, HOST, "statistics", "no/such/place")
    assert done.stdout == ""
