"""A Debian on a disk: a copy of the image, its login on the serial console, and a second disk with programs and packages."""
import contextlib
import hashlib
import os
import re
import shutil
import subprocess

import disks
import programs
import vm

IMAGE = os.path.join(vm.GUEST, "debian.img")
KEY = os.path.join(vm.GUEST, "debian", "ssh_key")
PROMPT = r"root@debian:\S+# "
BOOT_TIMEOUT = 900  # systemd's own time-outs of 90 s make failed units long before


def append(root="/dev/vda"):
    return f"console=ttyS0 root={root} cryptomgr.notests"


@contextlib.contextmanager
def booted(image, more_disks=(), **options):
    """A guest at root's prompt on the serial console."""
    with vm.Vm(append=append(), disks=[image, *more_disks], prompt=PROMPT, **options) as guest:
        guest.expect("debian login: ", BOOT_TIMEOUT)
        guest.send("root\r")
        guest.prompt()
        # No colours, no pagers, no marks around what is typed, no wrapped lines.
        guest.send("bind 'set enable-bracketed-paste off'; export TERM=dumb SYSTEMD_COLORS=0 SYSTEMD_PAGER= DEBIAN_FRONTEND=noninteractive\r")
        guest.prompt()
        guest.run("stty columns 1000")
        yield guest


def assert_no_failed_unit(guest):
    status, state = guest.status_and_output("systemctl is-system-running --wait", BOOT_TIMEOUT)
    failed = guest.run("systemctl --failed --no-legend --plain")
    assert (status, state.strip(), failed) == (0, "running", ""), guest.run("systemctl --failed; journalctl -b -p warning --no-pager")


def power_off(guest):
    guest.send("systemctl poweroff\r")
    assert guest.wait(BOOT_TIMEOUT) == 0
    assert not re.search(r"Failed (to )?unmount|timed out", guest.output)


def package(folder, name, depends, files, script):
    """A binary package: files are {path in it: path on the host}, script is run when it has been unpacked."""
    tree = os.path.join(folder, name)
    os.makedirs(os.path.join(tree, "DEBIAN"))
    with open(os.path.join(tree, "DEBIAN", "control"), "w", encoding="utf-8") as f:
        f.write(f"Package: {name}\nVersion: 1.0\nArchitecture: amd64\nMaintainer: Umbra <umbra@localhost>\n"
                + (f"Depends: {depends}\n" if depends else "") + f"Description: a test: {name}\n")
    with open(os.path.join(tree, "DEBIAN", "postinst"), "w", encoding="utf-8") as f:
        f.write("#!/bin/sh\nset -e\n" + script)
    os.chmod(os.path.join(tree, "DEBIAN", "postinst"), 0o755)
    for inside, source in files.items():
        os.makedirs(os.path.dirname(os.path.join(tree, inside)), exist_ok=True)
        shutil.copy(source, os.path.join(tree, inside))
    deb = os.path.join(folder, f"{name}_1.0_amd64.deb")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-b", tree, deb], stdout=subprocess.DEVNULL, check=True)
    shutil.rmtree(tree)
    return deb


def repository(folder):
    """A folder of two packages of which one needs the other, with the index that apt reads."""
    os.makedirs(folder)
    debs = [package(folder, "umbra-sums", "", {"usr/bin/umbra-integers": programs.path("integers", 64)}, "umbra-integers >/var/lib/umbra-sums\n"),
            package(folder, "umbra-front", "umbra-sums (>= 1.0)", {"usr/bin/umbra-sse": programs.path("sse", 32)},
                    "test -s /var/lib/umbra-sums && umbra-sse >/var/lib/umbra-front\n")]
    with open(os.path.join(folder, "Packages"), "w", encoding="utf-8") as index:
        for deb in debs:
            with open(deb, "rb") as f:
                data = f.read()
            control = subprocess.run(["dpkg-deb", "-f", deb], stdout=subprocess.PIPE, text=True, check=True).stdout
            index.write(f"{control}Filename: ./{os.path.basename(deb)}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n\n")


def tools_disk(folder):
    """/programs with every test program, /packages with the repository."""
    programs.build()
    tree = folder / "tree"
    os.makedirs(tree / "programs")
    for name in programs.sources():
        for bits in programs.bits_of(name):
            shutil.copy(programs.path(name, bits), tree / "programs")
    repository(str(tree / "packages"))
    return disks.ext4(folder / "tools", 128 * disks.MIB, tree)
