"""Builds tests/linux/guest/*.c for 64 and 32 bits, and packs them behind the default guest's initramfs."""
import os
import subprocess

import vm

SOURCES = os.path.join(vm.ROOT, "tests", "linux", "guest")
OUT = os.path.join(vm.ROOT, "build", "tests", "linux")
FLAGS = ["-std=gnu17", "-D_GNU_SOURCE", "-O2", "-g0", "-s", "-static", "-pthread", "-Wall", "-Wextra", "-Werror", "-Wno-array-bounds"]
ONLY_64 = {"compat"}


def sources():
    return sorted(f[:-2] for f in os.listdir(SOURCES) if f.endswith(".c"))


def bits_of(name):
    return (64,) if name in ONLY_64 else (64, 32)


def path(name, bits):
    return os.path.join(OUT, f"{name}{bits}")


def build():
    """Compiles what is older than its sources. Two at a time: that is what the smallest machine has."""
    os.makedirs(OUT, exist_ok=True)
    newest_header = max(os.path.getmtime(os.path.join(SOURCES, f)) for f in os.listdir(SOURCES) if f.endswith(".h"))
    waiting = []
    for name in sources():
        source = os.path.join(SOURCES, name + ".c")
        for bits in bits_of(name):
            out = path(name, bits)
            if not os.path.exists(out) or os.path.getmtime(out) < max(os.path.getmtime(source), newest_header):
                waiting.append((out, ["gcc", f"-m{bits}", *FLAGS, "-msse2", "-mfpmath=sse", "-o", out + ".new", source, "-lm"]))
    while waiting:
        batch, waiting = waiting[:2], waiting[2:]
        running = [(out, subprocess.Popen(argv)) for out, argv in batch]
        for out, process in running:
            if process.wait():
                raise RuntimeError(f"{out} does not compile (gcc-multilib makes the 32-bit ones)")
        for out, _ in running:
            os.replace(out + ".new", out)


def cpio_entry(name, mode, data=b""):
    """One file of a "newc" archive (the kernel's Documentation: initramfs buffer format)."""
    fields = [0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
    entry = b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0"
    entry += b"\0" * (-len(entry) % 4)
    return entry + data + b"\0" * (-len(data) % 4)


def initrd():
    """The default initramfs with every program in /tests; returns the file's name."""
    build()
    out = os.path.join(OUT, "initrd.img")
    with open(vm.INITRD, "rb") as f:
        image = f.read()
    image += b"\0" * (-len(image) % 4)
    image += cpio_entry("tests", 0o40755)
    for name in sources():
        for bits in bits_of(name):
            with open(path(name, bits), "rb") as f:
                image += cpio_entry(f"tests/{name}{bits}", 0o100755, f.read())
    image += cpio_entry("TRAILER!!!", 0)
    with open(out + f".{os.getpid()}", "wb") as f:
        f.write(image)
    os.replace(out + f".{os.getpid()}", out)
    return out
