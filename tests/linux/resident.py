#!/usr/bin/python3
"""What a VM's process has in memory beside the guest's memory and the software engine's code cache.

    tests/linux/resident.py PID MEMORY    prints it, largest first; MEMORY as umbra's --memory
"""
import re
import sys

CODE_CACHE = 128 << 20
CODE_TABLES = 256 << 20  # and more: the kernel makes one mapping of all
SHADOW = 1 << 40
UNITS = {"K": 10, "M": 20, "G": 30}


def size_of(memory):
    return int(memory[:-1]) << UNITS[memory[-1]]


def mappings(pid):
    """(bytes, resident bytes, permissions, name) of each."""
    with open(f"/proc/{pid}/smaps", encoding="ascii") as f:
        text = f.read()
    for start, end, permissions, name, rest in re.findall(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+ *(.*)\n((?:[A-Z].*\n)+)", text, re.M):
        yield int(end, 16) - int(start, 16), int(re.search(r"^Rss: +(\d+) kB", rest, re.M)[1]) << 10, permissions, name


def part_of(size, permissions, name, memory):
    """What a mapping is, by its size: the guest's memory, translated code, which is mapped twice, the code cache's tables, shadow tables, or the rest."""
    if size == memory:
        return "guest memory"
    if size == CODE_CACHE and permissions.endswith("s"):
        return "translated code"
    if permissions == "rw-p" and not name and CODE_TABLES <= size < SHADOW:
        return "code cache's tables"
    return "shadow tables" if permissions == "rw-p" and size >= SHADOW else "rest"


def resident(pid, memory):
    """Resident bytes by part, and a line for each mapping of those beside guest memory and translated code, largest first."""
    parts, lines = {}, []
    for size, bytes_in, permissions, name in sorted(mappings(pid), key=lambda m: -m[1]):
        part = part_of(size, permissions, name, size_of(memory))
        parts[part] = parts.get(part, 0) + bytes_in
        if bytes_in and part not in ("guest memory", "translated code"):
            lines.append(f"{bytes_in / 2**20:8.2f} MiB of {size / 2**20:12.2f}  {permissions} {name or part}")
    return parts, lines


def outside(parts):
    """Bytes outside guest memory and the code cache, of which its tables are a part."""
    return parts["shadow tables"] + parts["rest"]


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    parts, lines = resident(int(sys.argv[1]), sys.argv[2])
    for line in lines[:30]:
        print(line)
    print(", ".join(f"{part} {bytes_in / 2**20:.1f} MiB" for part, bytes_in in parts.items()))
    print(f"{outside(parts) / 2**20:.1f} MiB outside guest memory and code cache")


if __name__ == "__main__":
    main()
