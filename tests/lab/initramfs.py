"""Packs L1's initramfs: busybox, the cloud kernel's modules, programs with the libraries that ldd names, and the test's own files."""
import os
import re
import stat
import struct
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "linux"))
from programs import cpio_entry  # noqa: E402

GUEST = os.path.join(ROOT, "build", "guest")
KERNEL = os.path.join(GUEST, "cloud", "vmlinuz")
L1 = os.path.join(ROOT, "tests", "lab", "l1")
BUSYBOX = os.path.join(GUEST, "busybox", "usr", "bin", "busybox")
FOLDERS = ("bin", "dev", "etc", "guest", "guests", "lab", "lib", "lib64", "out", "proc", "run", "sys", "tmp", "usr", "usr/share", "var")
LINKS = {"sbin": "bin", "usr/bin": "../bin", "usr/sbin": "../bin", "usr/lib": "../lib", "usr/lib64": "../lib64", "var/run": "../run"}
# What a test of a VMM may want of its host's kernel; what these need comes along. modprobe in L1 finds them by name.
MODULES = re.compile(r"/(kvm-amd|kvm-intel|irqbypass|tun|tap|macvtap|bridge|veth|vfio[\w-]*|vhost\w*|vmw_vsock_virtio\w*|virtio\w*|ata_piix|sd_mod|e1000e?|igb|nvme)"
                     r"\.ko")

SIGNED = b"~Module signature appended~\n"


class Archive:
    """A "newc" archive in the making. Later entries of a name win, as the kernel unpacks them in order."""

    def __init__(self):
        self.entries, self.folders = [], set()

    def folder(self, path):
        """Makes the folder and those above it; names behind a link of LINKS are meant to exist."""
        if path and path not in self.folders and path not in LINKS:
            self.folder(os.path.dirname(path))
            self.folders.add(path)
            self.entries.append(cpio_entry(path, stat.S_IFDIR | 0o755))

    def link(self, path, target):
        self.folder(os.path.dirname(path))
        self.entries.append(cpio_entry(path, stat.S_IFLNK | 0o777, target.encode()))

    def data(self, path, content, mode=0o644):
        self.folder(os.path.dirname(path))
        self.entries.append(cpio_entry(path, stat.S_IFREG | mode, content))

    def file(self, path, source):
        """A file of the host's, or a folder with all that is in it."""
        if os.path.isdir(source):
            for name in sorted(os.listdir(source)):
                self.file(os.path.join(path, name), os.path.join(source, name))
            return
        with open(source, "rb") as f:
            self.data(path, f.read(), 0o755 if os.access(source, os.X_OK) else 0o644)

    def program(self, path, source):
        """An executable, with the libraries that it is linked to at the places where the loader looks for them."""
        self.file(path, source)
        for library in libraries(source):
            name = in_tree(library)
            if name not in self.folders:
                self.folders.add(name)
                self.file(name, library)

    def write(self, path):
        with open(path, "wb") as f:
            f.writelines(self.entries)
            f.write(cpio_entry("TRAILER!!!", 0))


def in_tree(path):
    """Where a file of the host's lies in L1, without the links."""
    return re.sub(r"^usr/(lib64|lib|bin|sbin)/", lambda m: m[1].replace("sbin", "bin") + "/", path.lstrip("/"))


def libraries(program):
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    if listed.returncode:  # statically linked, or a script
        return []
    missing = re.findall(r"^\s*(\S+) => not found", listed.stdout, re.M)
    if missing:
        raise RuntimeError(f"{program} is linked to {', '.join(missing)}, which this host does not have")
    return [name for name in re.findall(r"(/\S+) \(0x", listed.stdout) if os.path.exists(name)]


def unsigned(path):
    """A module without its signature, which an emulated CPU takes seconds to check."""
    with open(path, "rb") as f:
        data = f.read()
    if not data.endswith(SIGNED):
        return data
    # Before the mark is struct module_signature, whose last member is the signature's size.
    end = len(data) - len(SIGNED)
    size, = struct.unpack(">I", data[end - 4:end])
    return data[:end - 12 - size]


def add_modules(archive):
    modules = os.path.realpath(os.path.join(GUEST, "cloud", "modules"))
    folder = f"lib/modules/{os.path.basename(modules)}"
    with open(os.path.join(modules, "modules.dep"), encoding="utf-8") as f:
        needs = dict(line.rstrip("\n").split(":") for line in f)
    wanted = {name for module in needs if MODULES.search(module) for name in (module, *needs[module].split())}
    for name in sorted(wanted):
        archive.data(f"{folder}/{name}", unsigned(os.path.join(modules, name)))
    archive.data(f"{folder}/modules.dep", "".join(f"{name}:{needs[name]}\n" for name in sorted(wanted)).encode())
    for name in ("modules.alias", "modules.softdep"):
        archive.file(f"{folder}/{name}", os.path.join(modules, name))


def add_system(archive):
    for path in FOLDERS:
        archive.folder(path)
    for path, target in LINKS.items():
        archive.link(path, target)
    archive.file("bin/busybox", BUSYBOX)
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            archive.link(f"bin/{applet}", "busybox")
    archive.file("lab", L1)
    archive.link("init", "lab/init")
    archive.data("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n")
    archive.data("etc/group", b"root:x:0:\n")
    add_modules(archive)


def build(out, umbra, test, settings, programs=(), files=None):
    """Writes L1's initramfs to out.

    test: the program that L1 runs. settings: what L1's init reads as shell variables. programs: executables of the host's, which lie in L1's
    /bin. files: {path in L1: path on the host, or bytes}. The default guest is /guest, the tiny ones are /guests.
    """
    archive = Archive()
    add_system(archive)
    archive.program("bin/umbra", umbra)
    for program in programs:
        archive.program("bin/" + os.path.basename(program), program)
    archive.file("guest/vmlinuz", KERNEL)
    archive.file("guest/initrd.cpio.gz", os.path.join(GUEST, "initrd.cpio.gz"))
    tiny = os.path.join(ROOT, "build", "release", "guest")
    for name in sorted(os.listdir(tiny) if os.path.isdir(tiny) else []):
        if name.endswith(".elf"):
            archive.file(f"guests/{name}", os.path.join(tiny, name))
    for path, source in (files or {}).items():
        if isinstance(source, bytes):
            archive.data(path.lstrip("/"), source)
        else:
            archive.file(path.lstrip("/"), source)
    archive.program("lab/test", test)
    archive.data("lab/settings", "".join(f"{name}={value}\n" for name, value in settings.items()).encode())
    archive.write(out)
