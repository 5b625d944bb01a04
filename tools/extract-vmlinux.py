#!/usr/bin/env python3
"""Takes the uncompressed ELF kernel out of a bzImage: extract-vmlinux.py VMLINUZ VMLINUX.

The setup header names where the payload lies (Linux's boot protocol 2.08 and later: payload_offset, payload_length); it holds the
ELF file, and behind it the relocations for KASLR, which are left out.
"""
import lzma
import struct
import subprocess
import sys
import zlib


def command(name, *options):
    """A decompressor that is a command of its own: bytes in, bytes out."""
    def run(data):
        try:
            done = subprocess.run([name, *options], input=data, capture_output=True, check=False)
        except FileNotFoundError:
            sys.exit(f"extract-vmlinux: the payload needs the command {name}: install Debian's package {name}")
        if not done.stdout:
            sys.exit(f"extract-vmlinux: {name}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout  # what follows the stream (the size, 4 bytes) makes the command fail at its end
    return run


def unxz(data):
    return lzma.LZMADecompressor().decompress(data)


def gunzip(data):
    return zlib.decompressobj(wbits=31).decompress(data)


FORMATS = [
    (b"\x1f\x8b", gunzip),
    (b"\xfd7zXZ\x00", unxz),
    (b"\x28\xb5\x2f\xfd", command("zstd", "-dcq")),
    (b"\x02\x21\x4c\x18", command("lz4", "-dcq")),
    (b"\x7fELF", bytes),
]


def payload(image):
    if len(image) < 0x250 or image[0x202:0x206] != b"HdrS":
        sys.exit("extract-vmlinux: this is no bzImage: the setup header's magic HdrS is missing")
    setup_sects, version = image[0x1f1] or 4, struct.unpack_from("<H", image, 0x206)[0]
    if version < 0x208:
        sys.exit(f"extract-vmlinux: boot protocol {version >> 8}.{version & 255:02} names no payload: 2.08 is the first that does")
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sects + 1) * 512 + offset
    if start + length > len(image):
        sys.exit("extract-vmlinux: the image is shorter than its payload")
    return image[start:start + length]


def elf_size(elf):
    """Where the last of an ELF file's parts ends."""
    if elf[:6] != b"\x7fELF\x02\x01":
        sys.exit("extract-vmlinux: the payload is no 64-bit ELF file")
    phoff, shoff = struct.unpack_from("<QQ", elf, 0x20)
    phentsize, phnum, shentsize, shnum = struct.unpack_from("<HHHH", elf, 0x36)
    ends = [phoff + phentsize * phnum, shoff + shentsize * shnum]
    for i in range(phnum):
        offset, _vaddr, _paddr, filesz = struct.unpack_from("<QQQQ", elf, phoff + i * phentsize + 8)
        ends.append(offset + filesz)
    for i in range(shnum):
        kind = struct.unpack_from("<I", elf, shoff + i * shentsize + 4)[0]
        offset, size = struct.unpack_from("<QQ", elf, shoff + i * shentsize + 24)
        ends.append(offset + (0 if kind == 8 else size))  # 8: SHT_NOBITS
    return max(ends)


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: extract-vmlinux.py VMLINUZ VMLINUX")
    with open(sys.argv[1], "rb") as f:
        data = payload(f.read())
    for magic, decompress in FORMATS:
        if data.startswith(magic):
            elf = decompress(data)
            break
    else:
        sys.exit(f"extract-vmlinux: no known compression starts with {data[:6].hex(' ')}")
    size = elf_size(elf)
    if size > len(elf):
        sys.exit(f"extract-vmlinux: the ELF file ends at {size} bytes, but the payload holds {len(elf)}")
    with open(sys.argv[2], "wb") as f:
        f.write(elf[:size])


main()
