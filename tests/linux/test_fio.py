"""fio --verify on a disk of 1 GiB: random sizes, depths of 1 to 32, flushes and discards; verified again after a boot."""
import json
import os
import re
import shutil
import subprocess

import pytest

import disks
import vm

pytestmark = pytest.mark.soak
SIZE = 1 << 30
DEPTHS = (1, 4, 32)
TIMEOUT = 1800


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """A disk with the host's own fio and every library that it needs."""
    tree = tmp_path_factory.mktemp("fio") / "tree"
    tree.mkdir()
    fio = shutil.which("fio")
    assert fio, "fio is missing: tools/deps.sh test"
    shutil.copy(fio, tree)
    for library in re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", fio], stdout=subprocess.PIPE, text=True, check=True).stdout):
        shutil.copy(os.path.realpath(library), tree / os.path.basename(library))
    return disks.ext4(tree.parent / "disk", 256 * disks.MIB, tree)


def jobs(verify_only):
    """A third of the disk for each depth, and behind them a part where discards and writes alternate."""
    share = SIZE // 4 // disks.MIB
    common = (f"--filename=/dev/vda --direct=1 --ioengine=libaio --bsrange=4k-128k --bs_unaligned=0 --blockalign=4k --randrepeat=1 --randseed=815 "
              f"--verify=crc32c --verify_fatal=1 --verify_state_save=0 --fallocate=none {'--verify_only=1' if verify_only else '--do_verify=0 --fsync=64'}")
    return " ".join([common] + [f"--name=depth{depth} --stonewall --rw=randwrite --iodepth={depth} --offset={n * share}m --size={share}m"
                                for n, depth in enumerate(DEPTHS)])


@pytest.mark.parametrize("options", ["", ",queues=4", ",direct", ",engine=threads", ",engine=threads,direct,queues=4"])
def test_what_fio_wrote_is_verified_after_a_boot(tmp_path, tools, options):
    if vm.IS_QEMU and "engine" in options:
        pytest.skip("QEMU has no such option")
    image = disks.blank(tmp_path / "disk", SIZE)
    fio = "/mnt/ld-linux-x86-64.so.2 --library-path /mnt /mnt/fio"
    trimmed = 3 * SIZE // 4 // disks.MIB
    for verify_only in (False, True):
        with vm.Vm(memory="1G", disks=[image + options, tools + ",ro"]) as guest:
            guest.prompt()
            guest.run("umount /mnt 2>/dev/null; mount -o ro /dev/vdb /mnt")
            if not verify_only:
                guest.run(f"dd if=/dev/urandom of=/dev/vda bs=1M seek={trimmed} count=64 conv=fsync 2>/dev/null")
                guest.run(f"{fio} --filename=/dev/vda --direct=1 --ioengine=libaio --name=trims --rw=randtrimwrite --bs=64k --iodepth=8 --fsync=16 "
                          f"--offset={trimmed}m --size=128m --output=/tmp/trims", TIMEOUT)
                guest.run(f"blkdiscard -o {trimmed * disks.MIB} -l {16 * disks.MIB} /dev/vda")
            guest.run(f"{fio} --output-format=json --output=/tmp/out {jobs(verify_only)}", TIMEOUT)
            results = json.loads(guest.run("cat /tmp/out"))["jobs"]
            assert [(job["jobname"], job["error"]) for job in results] == [(f"depth{depth}", 0) for depth in DEPTHS]
            moved = [job["read" if verify_only else "write"]["io_kbytes"] for job in results]
            assert moved == [SIZE // 4 // 1024] * len(DEPTHS)
            guest.run(f"dd if=/dev/vda bs=1M skip={trimmed} count=16 2>/dev/null | cmp -n {16 * disks.MIB} - /dev/zero")
            assert not re.search(r"I/O error", guest.run("dmesg"))
            disks.power_off(guest)
