"""Disks of the default guest: what was written is there after a power-off, and after a power cut what was acknowledged."""
import os
import random
import re
import signal
import time

import pytest

import disks
import vm

FILES = 4
SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)


@pytest.mark.parametrize("options", ["", ",direct,queues=4", ",engine=threads,block-size=4096"])
def test_what_was_written_is_there_after_a_power_off(tmp_path, options):
    if vm.IS_QEMU and "engine" in options:
        pytest.skip("QEMU has no such option")
    image = disks.ext4(tmp_path / "disk", 256 * disks.MIB)
    with vm.Vm(disks=[image + options]) as guest:
        disks.wait_for_mount(guest)
        guest.run("mkdir /mnt/a /mnt/a/b; awk 'BEGIN { for (i = 1; i <= 200000; i++) print i }' >/mnt/a/b/numbers")
        sums = guest.run(f"cd /mnt; for i in $(seq {FILES}); do dd if=/dev/urandom of=r$i bs=300k count=$((i * 7)) 2>/dev/null; done; sync; "
                         "md5sum r* a/b/numbers; cd /root").splitlines()
        guest.run("dd if=/dev/zero of=/mnt/late bs=1M count=16 2>/dev/null; mv /mnt/late /mnt/later")
        disks.power_off(guest)
    disks.assert_clean(image)
    assert len(sums) == FILES + 1
    for line in sums:
        digest, name = line.split()
        assert disks.md5(disks.read_file(image, name)) == digest, name
    assert disks.read_file(image, "a/b/numbers") == "".join(f"{i}\n" for i in range(1, 200001)).encode()
    with vm.Vm(disks=[image + options]) as guest:
        disks.wait_for_mount(guest)
        assert guest.run("cd /mnt; md5sum r* a/b/numbers; cd /root").splitlines() == sums
        assert guest.run("wc -c </mnt/later") == f"{16 * disks.MIB}\n"
        disks.power_off(guest)
    disks.assert_clean(image)


def test_a_read_only_disk_a_serial_number_and_space_that_is_given_back(tmp_path):
    first = disks.ext4(tmp_path / "first", 256 * disks.MIB)
    second = disks.blank(tmp_path / "second", 8 * disks.MIB)
    third = disks.blank(tmp_path / "third", 64 * disks.MIB + 512)
    with open(second, "r+b") as f:
        f.write(b"unchanged" * 1000)
    with vm.Vm(disks=[first, second + ",ro", third + ",serial=umbra-0815"]) as guest:
        disks.wait_for_mount(guest)
        assert guest.run("cat /sys/block/vd[abc]/ro") == "0\n1\n0\n"
        assert guest.run("cat /sys/block/vd[bc]/size") == f"{16 * 1024}\n{128 * 1024 + 1}\n"
        assert guest.run("cat /sys/block/vdc/serial").strip() == "umbra-0815"
        assert guest.status_and_output("echo changed 2>&1 >/dev/vdb")[0] != 0
        assert guest.run("head -c 9000 /dev/vdb | md5sum").split()[0] == disks.md5(b"unchanged" * 1000)

        guest.run("dd if=/dev/urandom of=/dev/vdc bs=1M count=64 2>/dev/null; sync")
        before = disks.allocated(third)
        guest.run("blkdiscard -o 1048576 -l 50331648 /dev/vdc")
        assert disks.allocated(third) < before - 40 * disks.MIB
        guest.run("dd if=/dev/urandom of=/mnt/f bs=1M count=48 2>/dev/null; sync; rm /mnt/f; sync")
        before = disks.allocated(first)
        guest.run("fstrim /mnt")
        assert disks.allocated(first) < before - 40 * disks.MIB
        assert not re.search(r"I/O error|EXT4-fs error", guest.run("dmesg"))
        disks.power_off(guest)
    disks.assert_clean(first)
    with open(second, "rb") as f:
        assert f.read(9009) == b"unchanged" * 1000 + b"\0" * 9
    with open(third, "rb") as f:
        f.seek(disks.MIB)
        assert f.read(48 * disks.MIB) == bytes(48 * disks.MIB)
        assert any(f.read(disks.MIB))


# Every number is printed only after fsync() of its block and of its file has returned.
WRITER = ("n={start}; while :; do "
          "{{ printf 'block %-4090d' $n | dd of=/dev/vdb bs=4096 seek=$n conv=notrunc,fsync; }} 2>/dev/null && "
          "{{ printf 'file %d\\n' $n | dd of=/mnt/f$n conv=fsync; }} 2>/dev/null && echo ACK $n.; n=$((n + 1)); done")


@pytest.mark.parametrize("options", ["", ",engine=threads,direct"])
def test_what_was_acknowledged_survives_a_power_cut(tmp_path, options):
    if vm.IS_QEMU and "engine" in options:
        pytest.skip("QEMU has no such option")
    print(f"SEED={SEED}")
    rng = random.Random(SEED)
    image = disks.ext4(tmp_path / "disk", 64 * disks.MIB)
    raw = disks.blank(tmp_path / "raw", 64 * disks.MIB)
    written = 0
    for _ in range(2):
        with vm.Vm(disks=[image + options, raw + options]) as guest:
            disks.wait_for_mount(guest)  # which replays the journal
            if written:
                texts = guest.run(f"for n in $(seq {written}); do cat /mnt/f$n; done")
                assert texts == "".join(f"file {n}\n" for n in range(1, written + 1))
            guest.send(WRITER.format(start=written + 1) + "\r")
            guest.expect(rf"ACK {written + rng.randrange(10, 60)}\.", 2 * vm.TIMEOUT)
            deadline = time.monotonic() + rng.random() * 0.1
            while time.monotonic() < deadline:
                guest.read_some(0.005)
            guest.signal(signal.SIGKILL)
            guest.wait()
            written = max(int(n) for n in re.findall(r"ACK (\d+)\.", guest.output))
        with open(raw, "rb") as f:
            for n in range(1, written + 1):
                f.seek(n * 4096)
                assert f.read(4096) == b"block %-4090d" % n, f"{n} of {written}"
    status, text = disks.fsck(image, "-fp")
    assert status in (0, 1), text
    assert "UNEXPECTED INCONSISTENCY" not in text
    for n in range(1, written + 1):
        assert disks.read_file(image, f"f{n}") == b"file %d\n" % n, f"{n} of {written}"


def test_a_disk_without_a_file_system_is_no_trouble_and_belongs_to_one_vm(tmp_path):
    image = disks.blank(tmp_path / "blank", disks.MIB)
    with vm.Vm(disks=[image]) as guest:
        guest.prompt()
        assert "/mnt " not in guest.run("cat /proc/mounts")
        assert guest.run("cat /sys/block/vda/size") == "2048\n"
        if not vm.IS_QEMU:
            with vm.Vm(disks=[image]) as second:
                assert second.wait() not in (0, 4)
                assert image in second.output and str(guest.process.pid) in second.output
        assert guest.run("echo alive >/dev/vda; sync; head -c 6 /dev/vda") == "alive\n"
