"""ThreadSanitizer's build at everything that has threads: two CPUs, disks, networks, consoles, and hands on them from outside."""
import os
import subprocess

import pytest

import disks
import programs
import vm

PATH = os.path.join(vm.ROOT, "build", "tsan", "umbra")
pytestmark = [pytest.mark.soak, pytest.mark.umbra_only,
              pytest.mark.skipif(not os.path.exists(PATH), reason=f"{PATH} is missing: make m=tsan")]
DISK_WORK = ("for i in 1 2 3 4; do (dd if=/dev/urandom of=/mnt/f$i bs=64k count=64 2>/dev/null; sync; md5sum /mnt/f$i >/tmp/s$i)& done; wait; "
             "echo 3 >/proc/sys/vm/drop_caches; md5sum /mnt/f? | sort >/tmp/again; cat /tmp/s? | sort | cmp - /tmp/again")


def ask(*argv):
    done = subprocess.run([PATH, *argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10 * vm.TIMEOUT, check=False)
    assert done.returncode == 0, done


@pytest.mark.parametrize("options", ["", ",queues=2,engine=threads"])
def test_linux_boots_on_two_cpus_and_works_and_ends_without_a_report(tmp_path, programs_initrd, options):
    image = disks.ext4(tmp_path / "disk", 256 * disks.MIB)
    # A report makes the exit status 66, and is in the output, which Vm looks through.
    with vm.Vm(binary=PATH, initrd=programs_initrd, disks=[image + options], nets=["user"], extra=["--cpus", "2", "--name", "races"]) as guest:
        disks.wait_for_mount(guest)
        assert guest.run("nproc") == "2\n"
        assert guest.status_and_output(DISK_WORK, 10 * vm.TIMEOUT) == (0, "")
        for name in ("threads", "signals", "memory", "processes", "jit"):
            assert guest.status_and_output(f"/tests/{name}64", 20 * vm.TIMEOUT)[0] == 0
        host = subprocess.run([programs.path("parallel", 64)], capture_output=True, text=True, timeout=120, check=True).stdout
        guest.send("(sleep 1; /tests/parallel64 >/tmp/sums)& (ping -c 3 10.0.2.2 >/dev/null; md5sum /dev/vda >/dev/null)&\r")
        for command in (["pause"], ["resume"], ["stat", "--json"], ["trace", "--events", "2000"], ["screen"], ["nmi"]) * 3:
            ask(command[0], "races", *command[1:])
        guest.prompt()
        guest.run("wait", 10 * vm.TIMEOUT)
        assert guest.run("cat /tmp/sums") == host
        ask("reset", "races")
        guest.expect(vm.BANNER, 10 * vm.BOOT_TIMEOUT)
        guest.prompt(10 * vm.BOOT_TIMEOUT)
        disks.power_off(guest)
