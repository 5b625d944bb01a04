"""What a VM leaves behind: nothing, however it ends."""
import os
import re
import signal
import subprocess

import pytest

import guests
from conftest import BINARY, TIMEOUT


def files(runtime_dir):
    return sorted(os.listdir(f"{runtime_dir}/umbra"))


def test_a_vm_that_is_killed_leaves_nothing_behind_the_next_list(umbra, running, runtime_dir):
    for name in ("first", "second"):
        process = running(guests.SPIN, name=name)
        process.send_signal(signal.SIGKILL)
        process.wait(TIMEOUT)
    alive = running(guests.SPIN, name="third")
    assert files(runtime_dir) == [f"{name}.{what}" for name in ("first", "second", "third") for what in ("lock", "sock")]
    done = umbra("list")
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [["third", str(alive.pid)]]
    assert files(runtime_dir) == ["third.lock", "third.sock"]


@pytest.mark.parametrize("left", [["box.lock", "box.sock"], ["box.lock"], ["box.sock"]])
def test_the_name_of_a_vm_that_was_killed_can_be_taken(umbra, running, runtime_dir, left):
    process = running(guests.SPIN)
    process.send_signal(signal.SIGKILL)
    process.wait(TIMEOUT)
    for name in set(files(runtime_dir)) - set(left):
        os.unlink(f"{runtime_dir}/umbra/{name}")
    running(guests.SPIN)
    assert umbra("pause", "box").returncode == 0
    assert umbra("kill", "box").returncode == 0
    assert files(runtime_dir) == []


@pytest.mark.parametrize("left", ["box.lock", "box.sock"])
def test_a_command_on_a_vm_that_was_killed_finds_none(umbra, running, runtime_dir, left):
    process = running(guests.SPIN)
    process.send_signal(signal.SIGKILL)
    process.wait(TIMEOUT)
    done = umbra("pause", "box")
    assert done.returncode == 1 and "no running VM named 'box'" in done.stderr
    umbra("list")
    assert files(runtime_dir) == []


def test_files_that_are_not_umbras_are_left_alone(umbra, runtime_dir):
    umbra("list")
    strange = ["README", "a b.lock", ".lock", "x" * 70 + ".sock"]
    for name in strange:
        with open(f"{runtime_dir}/umbra/{name}", "w", encoding="ascii"):
            pass
    try:
        assert umbra("list").returncode == 0
        assert files(runtime_dir) == sorted(strange)
    finally:
        for name in strange:
            os.unlink(f"{runtime_dir}/umbra/{name}")


@pytest.mark.parametrize("args", [["--kernel", "/nonexistent"], ["--kernel", "{k}", "--disk", "/nonexistent"], ["--kernel", "{k}", "--memory", "2M",
                                  "--console", "file:/nonexistent/x"]])
def test_a_start_that_fails_leaves_nothing(umbra, kernel, runtime_dir, args):
    code = kernel(guests.POWER_OFF)
    assert umbra("run", *(a.replace("{k}", code) for a in args)).returncode == 1
    assert files(runtime_dir) == []


# --- again and again ---

TAP = ["sh", "-c", "PATH=$PATH:/sbin:/usr/sbin; ip tuntap add tap0 mode tap vnet_hdr && ip link set tap0 up && echo ready && exec cat"]


@pytest.fixture(name="tap")
def tap_in_a_namespace():
    """A process in user and network namespaces of its own, where there is tap0."""
    with subprocess.Popen(["unshare", "-Urn", *TAP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            if process.stdout.read(6) != b"ready\n":
                process.kill()
                pytest.skip(f"this host gives no tap in a namespace of one's own: {process.stderr.read().decode().strip()}")
            yield process
        finally:
            process.kill()


def inside(tap, *argv):
    """A command in the tap's namespaces, whose process is the command's own."""
    return ["nsenter", "--preserve-credentials", "-U", "-n", "-t", str(tap.pid), *argv]


def processes_of(runtime_dir):
    """Those that were started for these tests, whoever their parent is by now."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                if f"XDG_RUNTIME_DIR={runtime_dir}".encode() in f.read().split(b"\0"):
                    found.append(pid)
        except OSError:  # it ended, or is another user's
            pass
    return sorted(found)


def shared_memory():
    """By name. What has none is gone with the last process that has it."""
    with open("/proc/sysvipc/shm", encoding="ascii") as f:
        return len(f.readlines()), sorted(name for name in os.listdir("/dev/shm") if "umbra" in name)


def what_is_there(runtime_dir, tap):
    """Whatever a VM could leave: files, network interfaces and who uses them, memory, processes, and what this process has of them."""
    path = os.environ["PATH"] + ":/sbin:/usr/sbin"
    links = subprocess.run(inside(tap, "ip", "-o", "link"), env=dict(os.environ, PATH=path), capture_output=True, text=True, check=True).stdout
    interfaces = {name: "LOWER_UP" in flags.split(",") for name, flags in re.findall(r"^\d+: (\S+): <(\S*)>", links, re.M)}
    return {"files": files(runtime_dir), "interfaces": interfaces, "memory": shared_memory(),
            "processes": processes_of(runtime_dir), "descriptors": len(os.listdir("/proc/self/fd"))}


def end(process, how):
    if how == "power off":
        subprocess.run([BINARY, "stop", "box"], check=True, timeout=TIMEOUT)
    elif how == "kill":
        subprocess.run([BINARY, "kill", "box"], check=True, timeout=TIMEOUT)
    elif how == "signal":
        process.send_signal(signal.SIGTERM)
    else:
        process.send_signal(signal.SIGKILL)
    process.wait(TIMEOUT)


@pytest.mark.parametrize("cycles", [50, pytest.param(1000, marks=pytest.mark.soak)])
def test_many_starts_and_ends_leave_nothing(kernel, runtime_dir, tmp_path, tap, cycles):
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    code = kernel(guests.say("up") + guests.POWER_BUTTON)
    argv = inside(tap, BINARY, "run", "--name", "box", "--memory", "4M,shared", "--kernel", code, "--disk", str(tmp_path / "disk.img"),
                  "--net", "user", "--net", "tap=tap0")
    subprocess.run([BINARY, "list"], check=True, stdout=subprocess.DEVNULL, timeout=TIMEOUT)
    before = what_is_there(runtime_dir, tap)
    assert before["interfaces"] == {"lo": False, "tap0": False}
    for cycle in range(cycles):
        how = ["power off", "kill", "signal", "SIGKILL"][cycle % 4]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            try:
                assert process.stdout.read(2) == b"up", cycle
                if cycle < 4:
                    there = what_is_there(runtime_dir, tap)
                    assert there["interfaces"] == {"lo": False, "tap0": True}
                    assert set(there["processes"]) - set(before["processes"]) == {str(process.pid)}
                end(process, how)
            finally:
                process.kill()
        if how != "SIGKILL":
            assert files(runtime_dir) == [], (cycle, how)
    subprocess.run([BINARY, "list"], check=True, stdout=subprocess.DEVNULL, timeout=TIMEOUT)
    assert what_is_there(runtime_dir, tap) == before
