"""What a VM leaves behind: nothing, however it ends."""
import os
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


def what_is_there(runtime_dir):
    """Whatever a VM could leave: files, network interfaces, shared memory, children of this process."""
    with open("/proc/self/task/{}/children".format(os.getpid()), encoding="ascii") as f:
        children = f.read().split()
    return {"files": files(runtime_dir), "interfaces": sorted(os.listdir("/sys/class/net")), "shm": sorted(os.listdir("/dev/shm")),
            "children": children, "descriptors": len(os.listdir("/proc/self/fd"))}


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
def test_many_starts_and_ends_leave_nothing(kernel, runtime_dir, tmp_path, cycles):
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    code = kernel(guests.say("up") + guests.POWER_BUTTON)
    argv = [BINARY, "run", "--name", "box", "--memory", "4M,shared", "--kernel", code, "--disk", str(tmp_path / "disk.img"), "--net", "user"]
    subprocess.run([BINARY, "list"], check=True, stdout=subprocess.DEVNULL, timeout=TIMEOUT)
    before = what_is_there(runtime_dir)
    for cycle in range(cycles):
        how = ["power off", "kill", "signal", "SIGKILL"][cycle % 4]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            try:
                assert process.stdout.read(2) == b"up", cycle
                end(process, how)
            finally:
                process.kill()
        if how != "SIGKILL":
            assert files(runtime_dir) == [], (cycle, how)
    subprocess.run([BINARY, "list"], check=True, stdout=subprocess.DEVNULL, timeout=TIMEOUT)
    assert what_is_there(runtime_dir) == before
