"""A whole Debian with systemd, from a virtio disk to the login prompt, at work, over ssh, and to a clean end."""
import re
import subprocess
import time

import pytest

import debian
import disks
import server
import vm
from test_network import free_port
from test_programs import expected

SSH_OPTIONS = ["-F", "none", "-i", debian.KEY, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
               "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=30"]


@pytest.fixture(scope="module")
def ssh_port():
    return free_port()


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return disks.copy(debian.IMAGE, tmp_path_factory.mktemp("debian") / "disk")


@pytest.fixture(scope="module")
def running(image, ssh_port, tmp_path_factory):
    tools = debian.tools_disk(tmp_path_factory.mktemp("tools"))
    start = time.monotonic()
    with debian.booted(image, [tools + ",ro"], memory="1G", nets=[f"user,hostfwd=tcp:{ssh_port}:22"]) as guest:
        print(f"Debian: {time.monotonic() - start:.1f} s to root's prompt")
        guest.run("mount -o ro /dev/vdb /mnt")
        yield guest


def test_no_unit_fails(running):
    debian.assert_no_failed_unit(running)
    print(running.run("systemd-analyze time"))


def test_the_root_file_system_is_a_virtio_disk(running):
    assert re.search(r"^/dev/vda / ext4 rw", running.run("cat /proc/mounts"), re.M)
    assert running.run("basename $(readlink -f /sys/block/vda/device/driver)") == "virtio_blk\n"


def test_a_script_runs_programs_of_64_and_32_bits(running):
    script = "#!/bin/bash\nset -e -o pipefail\nfor n in integers64 integers32 sse64 sse32; do echo == $n; /mnt/programs/$n; done | tee /tmp/out\n"
    running.run(f"printf '%s' '{script}' >/tmp/script; chmod +x /tmp/script".replace("\n", "'$'\\n''"))
    output = running.run("/tmp/script")
    if not vm.IS_QEMU:
        wanted = [line for n, bits in (("integers", 64), ("integers", 32), ("sse", 64), ("sse", 32)) for line in [f"== {n}{bits}", *expected(n, bits)]]
        assert output.splitlines() == wanted
    for name in ("signals64", "processes32"):
        status, output = running.status_and_output(f"/mnt/programs/{name}", 2 * vm.TIMEOUT)
        assert status == 0, output


def test_apt_installs_from_a_local_directory(running):
    running.run("cp -r /mnt/packages /var/local && echo 'deb [trusted=yes] file:/var/local/packages ./' >/etc/apt/sources.list.d/local.list")
    # apt hands its terminal to dpkg, with what was typed ahead.
    only = "-o Dir::Etc::sourcelist=/etc/apt/sources.list.d/local.list -o Dir::Etc::sourceparts=-"
    running.run(f"apt-get -q {only} update </dev/null", 4 * vm.TIMEOUT)
    running.run(f"apt-get -q -y {only} install umbra-front </dev/null", 4 * vm.TIMEOUT)
    assert running.run("dpkg-query -W -f '${Package} ${db:Status-Status}\\n' umbra-front umbra-sums") == "umbra-front installed\numbra-sums installed\n"
    assert running.run("umbra-integers | cmp - /var/lib/umbra-sums && umbra-sse | cmp - /var/lib/umbra-front && echo same") == "same\n"
    running.run("apt-get -q -y remove umbra-sums </dev/null", 4 * vm.TIMEOUT)
    assert running.status_and_output("umbra-integers")[0] == 127


def ssh(port, command, **options):
    line = ["ssh", *SSH_OPTIONS, "-p", str(port), "root@127.0.0.1", command]
    return subprocess.run(line, timeout=8 * vm.TIMEOUT * vm.SCALE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, **options)


def test_ssh_leads_in_through_a_port_of_the_host(running, ssh_port):
    deadline = time.monotonic() + 2 * vm.TIMEOUT * vm.SCALE
    while (done := ssh(ssh_port, "hostname; tty || true", stdin=subprocess.DEVNULL)).returncode == 255 and time.monotonic() < deadline:
        time.sleep(1)
    assert done.stdout == b"debian\nnot a tty\n", done.stderr
    data = server.data(8 << 20)
    done = ssh(ssh_port, "cat >/tmp/f; md5sum </tmp/f", input=data)
    assert done.stdout.decode().split()[0] == disks.md5(data)
    assert ssh(ssh_port, "cat /tmp/f; rm /tmp/f", stdin=subprocess.DEVNULL).stdout == data


def test_the_kernel_and_the_journal_have_nothing_to_complain_about(running):
    assert not re.search(r"BUG:|WARNING:|Oops|Call Trace|rcu.*stall|soft lockup|nobody cared|I/O error|NETDEV WATCHDOG", running.run("dmesg"))
    assert running.run("journalctl -b -p err -q --no-pager -o cat") == ""


def test_it_shuts_down_cleanly(running, image):
    """The last test of the running guest: what it leaves has no fault."""
    running.run("umount /mnt")
    debian.power_off(running)
    disks.assert_clean(image)


@pytest.mark.parametrize("flavour", ["cloud", pytest.param("generic", marks=pytest.mark.soak)])
def test_it_boots_by_its_own_initramfs_tools_initrd(tmp_path, flavour):
    image = disks.copy(debian.IMAGE, tmp_path / "disk")
    with debian.booted(image, kernel=f"{vm.GUEST}/{flavour}/vmlinuz", initrd=f"{vm.GUEST}/{flavour}/initrd.img", memory="1G", nets=["user"]) as guest:
        debian.assert_no_failed_unit(guest)
        assert ("cloud" in guest.run("uname -r")) == (flavour == "cloud")
        guest.run("networkctl status | grep 10.0.2.15")
        debian.power_off(guest)
    disks.assert_clean(image)
