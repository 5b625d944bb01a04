"""Disk images for guests, and what the host finds in them."""
import hashlib
import os
import subprocess

SBIN = dict(os.environ, PATH=os.environ["PATH"] + ":/sbin:/usr/sbin")
MIB = 1 << 20


def blank(path, size):
    with open(path, "wb") as f:
        f.truncate(size)
    return str(path)


def ext4(path, size, tree=None):
    """A new file system, with what a folder holds; everything in it is root's."""
    blank(path, size)
    line = ["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-E", "root_owner=0:0,assume_storage_prezeroed=1"]
    subprocess.run(line + (["-d", str(tree)] if tree else []) + [str(path)], env=SBIN, check=True)
    return str(path)


def copy(source, path):
    subprocess.run(["cp", "--sparse=always", source, str(path)], check=True)
    return str(path)


def fsck(path, options="-fn"):
    """The exit status and the words: 0 is a file system without fault, and with -n nothing is written."""
    done = subprocess.run(["e2fsck", options, path], env=SBIN, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def assert_clean(path):
    """No fault, and no journal that waits to be replayed: the guest has unmounted it."""
    status, text = fsck(path)
    assert status == 0, text
    assert "recover" not in text, text


def read_file(path, name):
    """A file's content, out of the image."""
    done = subprocess.run(["debugfs", "-R", f"cat {name}", path], env=SBIN, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return done.stdout


def md5(data):
    return hashlib.md5(data).hexdigest()


def allocated(path):
    """Bytes that the host keeps for a sparse file."""
    return os.stat(path).st_blocks * 512


def wait_for_mount(guest):
    """/dev/vda is on /mnt before the first prompt; a test that needs it says so in one line."""
    guest.prompt()
    assert "/dev/vda /mnt ext4 rw" in guest.run("cat /proc/mounts"), guest.output


def power_off(guest):
    guest.send("poweroff\r")
    assert guest.wait() == 0
