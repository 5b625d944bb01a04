"""Disks and networks from the command line: what is wrong with them, what two VMs may share, and what is told of them at the end."""
import json
import os
import re
import socket

import pytest

import guests
from test_bad_input import HOST, refused


@pytest.fixture
def disk(tmp_path):
    """disk(NAME): a raw image of 1 MiB."""

    def make(name, size=1 << 20, head=b""):
        path = tmp_path / name
        path.write_bytes(head)
        os.truncate(path, size)
        return name

    return make


@pytest.fixture
def bad(umbra, kernel):
    """bad(WORDS, ARGS...): the machine is refused, with a sentence that has the words."""
    path = kernel(guests.POWER_OFF)
    return lambda words, *args: refused(umbra("run", "--kernel", path, *args), HOST, *words)


def test_disks_that_are_none(bad, disk):
    bad(["/usr", "directory"], "--disk", "/usr")
    bad(["none.img", "does not exist"], "--disk", "none.img")
    bad(["/dev/null"], "--disk", "/dev/null")
    bad(["empty.img", "empty"], "--disk", disk("empty.img", 0))
    bad(["odd.img", "512"], "--disk", disk("odd.img", 1000))


def test_a_qcow2_image_is_told_how_it_becomes_a_raw_one(bad, disk):
    bad(["qemu-img convert", "d.qcow2"], "--disk", disk("d.qcow2", head=b"QFI\xfb\0\0\0\3"))


def test_a_disk_that_may_not_be_written(bad, disk, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everything")
    os.chmod(tmp_path / disk("d.img"), 0o444)
    bad(["d.img", "ro"], "--disk", "d.img")


def test_two_names_of_one_disk(umbra, kernel, disk, tmp_path):
    os.symlink(disk("d.img"), tmp_path / "e.img")
    refused(umbra("run", "--kernel", kernel(guests.POWER_OFF), "--disk", "d.img", "--disk", "e.img"), 2, "d.img", "e.img", "the same")


def test_networks_that_are_none(bad):
    bad(["umbra-none0"], "--net", "tap=umbra-none0")
    bad(["fd=77", "not open"], "--net", "fd=77")
    with open("/dev/null", encoding="ascii"):
        bad(["fd=3", "not open"], "--net", "fd=3")  # nothing is handed down


def test_a_file_that_is_no_tap(umbra, kernel):
    with open("/dev/null", "rb") as f:
        done = umbra("run", "--kernel", kernel(guests.POWER_OFF), "--net", f"fd={f.fileno()}", pass_fds=[f.fileno()])
    refused(done, HOST, "tap")


def test_a_forward_from_a_taken_port(bad):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        bad([str(port)], "--net", f"user,hostfwd=tcp:{port}:22")


def test_a_bad_device_leaves_no_console_file_behind(bad, tmp_path):
    bad(["none.img"], "--disk", "none.img", "--console", "file:out.txt", "--stats=s.json")
    assert os.listdir(tmp_path) == []


def wait_for_start(process):
    assert process.stdout.read(1) == b"+"


def test_two_vms_on_one_disk(umbra, start, kernel, disk):
    name, path = disk("d.img"), kernel(guests.say("+") + guests.STOP)
    holder = start("run", "--kernel", path, "--disk", name)
    wait_for_start(holder)
    done = umbra("run", "--kernel", path, "--disk", name)
    refused(done, HOST, name, str(holder.pid))
    refused(umbra("run", "--kernel", path, "--disk", f"{name},ro"), HOST, name)
    holder.kill()
    holder.wait()
    done = umbra("run", "--kernel", kernel(guests.POWER_OFF), "--disk", name)
    assert (done.returncode, done.stderr) == (0, "")


def test_two_vms_may_read_one_disk(umbra, start, kernel, disk):
    name, path = disk("d.img"), kernel(guests.say("+") + guests.STOP)
    wait_for_start(start("run", "--kernel", path, "--disk", f"{name},ro"))
    done = umbra("run", "--kernel", kernel(guests.POWER_OFF), "--disk", f"{name},ro")
    assert (done.returncode, done.stderr) == (0, "")
    refused(umbra("run", "--kernel", path, "--disk", name), HOST, name)


@pytest.mark.parametrize("engine", ["io_uring", "threads"])
def test_statistics_have_a_group_for_every_device(umbra, kernel, disk, tmp_path, engine):
    if engine == "io_uring" and not re.search(r"^io_uring +yes", umbra("probe").stdout, re.M):
        pytest.skip("this host gives no io_uring")
    done = umbra("run", "--kernel", kernel(guests.POWER_OFF), "--disk", f"{disk('d.img')},queues=2,engine={engine}", "--net", "user", "--net", "user",
                 "--console", "virtio", "--stats=s.json")
    assert (done.returncode, done.stderr) == (0, "")
    stats = json.loads((tmp_path / "s.json").read_text())
    assert {"blk0", "net0", "net1", "rng0", "console0"} <= set(stats)
    assert {f"queue {q} {what}" for q in range(2) for what in ("kicks", "chains", "interrupts", "interrupts suppressed")} <= set(stats["blk0"])


def test_the_table_has_them_too_and_what_is_off_is_not_there(umbra, kernel):
    done = umbra("run", "--kernel", kernel(guests.POWER_OFF), "--rng", "off", "--net", "user", "--stats")
    assert done.returncode == 0
    assert "\nnet0 " in done.stderr and "rng0" not in done.stderr


def test_with_a_virtio_console_the_serial_port_is_still_shown(umbra, kernel):
    done = umbra("run", "--kernel", kernel(guests.say("early") + guests.POWER_OFF), "--console", "virtio", stdin=None)
    assert (done.returncode, done.stdout, done.stderr) == (0, "early", "")


def test_a_file_lists_devices_and_flags_replace_the_list(umbra, kernel, disk, tmp_path):
    (tmp_path / "vm.json").write_text(json.dumps({
        "kernel": kernel(guests.POWER_OFF), "disk": [disk("a.img"), {"path": disk("b,c.img"), "ro": True}], "net": {"user": True},
        "rng": {"rate": "1K"}, "stats": "s.json"}))
    assert umbra("run", "--config", "vm.json").returncode == 0
    assert {"blk0", "blk1", "net0", "rng0"} <= set(json.loads((tmp_path / "s.json").read_text()))
    assert umbra("run", "--config", "vm.json", "--disk", "a.img", "--net", "none").returncode == 0
    groups = set(json.loads((tmp_path / "s.json").read_text()))
    assert "blk0" in groups and not {"blk1", "net0"} & groups


def test_fw_cfg_files_that_cannot_be_read(bad, tmp_path):
    bad(["--fw-cfg", "none.bin", "No such file"], "--fw-cfg", "opt/a=none.bin")
    bad(["/usr", "directory"], "--fw-cfg", "opt/a=/usr")
    with open(tmp_path / "big", "wb") as f:
        f.truncate((64 << 20) + 1)
    bad(["big", "64M"], "--fw-cfg", "opt/a=big")
