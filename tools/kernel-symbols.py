#!/usr/bin/python3
"""Makes a symbol file for gdb of a stripped 64-bit Linux kernel: tools/kernel-symbols.py VMLINUX OUT

A kernel carries its symbols for its own use (kallsyms), and the tables by which it walks its stacks (ORC). This writes the first as an ELF
symbol table and the second as DWARF call frame information, so that "break do_sys_openat2" and "backtrace" work without the distribution's
package of debug information. The addresses are those of a kernel without KASLR: boot with nokaslr. For kernels of the 6.1 series: the formats
are the kernel's own affair and change.
"""
import re
import struct
import sys

SHF_ALLOC, SHT_SYMTAB, SHT_STRTAB, SHT_PROGBITS, SHT_NOBITS, SHN_ABS = 2, 2, 3, 1, 8, 0xFFF1
DIGITS = b"".join(b"%d\0" % n for n in range(10))


class Elf:
    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = f.read()
        if self.data[:5] != b"\x7fELF\x02":
            raise ValueError(f"{path} is no 64-bit ELF file: tools/extract-vmlinux.py makes one of a bzImage")
        off, = struct.unpack_from("<Q", self.data, 0x28)
        size, count, names = struct.unpack_from("<HHH", self.data, 0x3A)
        headers = [struct.unpack_from("<IIQQQQIIQQ", self.data, off + i * size) for i in range(count)]
        strings = headers[names][4]
        self.sections = {}  # name: (address, flags, offset, size)
        for name, _, flags, address, offset, length, *_ in headers[1:]:
            end = self.data.index(b"\0", strings + name)
            self.sections[self.data[strings + name:end].decode()] = (address, flags, offset, length)

    def content(self, name):
        if name not in self.sections:
            raise ValueError(f"the kernel has no section {name}: was it built with the ORC unwinder?")
        _, _, offset, length = self.sections[name]
        return self.data[offset:offset + length]


# --- kallsyms: scripts/kallsyms.c of the kernel's source writes offsets, base, count, names, markers, tokens, token index ---


def find_tokens(data):
    """The 256 tokens that names are made of, and where their table begins. Single digits are tokens by themselves, number 0x30 and on."""
    at = -1
    while (at := data.find(DIGITS, at + 1)) >= 0:
        start = at
        for _ in range(0x30):
            start = data.rfind(b"\0", 0, start - 1) + 1
        tokens = data[start:start + 8192].split(b"\0")[:256]
        end = start + sum(len(t) + 1 for t in tokens)
        index = struct.unpack_from("<256H", data, (end + 7) & ~7)
        if index[0] == 0 and index[0x30] == at - start and index[255] == end - start - len(tokens[255]) - 1:
            return tokens, start
    raise ValueError("no table of kernel symbols was found: was it built with CONFIG_KALLSYMS, and is it of the 6.1 series?")


def expand(data, at, count, tokens):
    """count names from at on, each with the letter of its type."""
    names = []
    for _ in range(count):
        length = data[at]
        at += 1
        if length & 0x80:
            length = length & 0x7F | data[at] << 7
            at += 1
        names.append(b"".join(tokens[t] for t in data[at:at + length]))
        at += length
    return names


def kallsyms(data, text):
    """(name, type, address) of each symbol; text: the address of the kernel's first one."""
    tokens, before = find_tokens(data)
    base = struct.pack("<Q", text)
    at = before
    while (at := data.rfind(base, 0, at)) >= 0:
        count, = struct.unpack_from("<I", data, at + 8)
        if at % 8 or not 1000 < count < 1000000:
            continue
        names = expand(data, at + 16, count, tokens)
        offsets = struct.unpack_from(f"<{count}i", data, (at - 4 * count) & ~7)
        if all(re.match(rb"[a-zA-Z][\x21-\x7e]+$", n) for n in names):
            # Not negative: a per-CPU offset; negative: from the base on.
            return [(n[1:], chr(n[0]), o if o >= 0 else text - 1 - o) for n, o in zip(names, offsets)]
    raise ValueError("the table of kernel symbols is not as the 6.1 series has it")


# --- ORC (arch/x86/include/asm/orc_types.h) to DWARF (version 4, 6.4) ---

ORC_PREV_SP, ORC_BP, ORC_SP, ORC_BP_INDIRECT, ORC_SP_INDIRECT = 1, 4, 5, 8, 9
ORC_DWARF = {2: 1, 3: 5, 4: 6, 5: 7, 6: 10, 7: 13}  # DX, DI, BP, SP, R10, R13 in DWARF's numbers
TYPE_CALL, TYPE_REGS = 0, 1
RBP, RSP, RA = 6, 7, 16
# Where struct pt_regs has them, by DWARF's numbers.
PT_REGS = {15: 0, 14: 8, 13: 16, 12: 24, 6: 32, 3: 40, 11: 48, 10: 56, 9: 64, 8: 72, 0: 80, 2: 88, 1: 96, 4: 104, 5: 112, RA: 128, RSP: 152}
IRET_FRAME = {RA: 0, RSP: 24}
ROWS_PER_ENTRY = 64  # of the frame table: it is run from its start to the address that is looked for


def uleb(n):
    out = b""
    while True:
        out += bytes([n & 0x7F | (0x80 if n > 0x7F else 0)])
        n >>= 7
        if not n:
            return out


def sleb(n):
    out = b""
    while not -64 <= n < 64:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n & 0x7F])


def at_cfa(reg, off):
    return b"\x11" + uleb(reg) + sleb(off // -8)  # DW_CFA_offset_extended_sf


def rules(entry):
    """The DWARF instructions for one ORC entry, and whether it is the frame of an interrupt."""
    sp_off, bp_off, bits = entry
    sp_reg, bp_reg, kind = bits & 15, bits >> 4 & 15, bits >> 8 & 3
    if sp_reg in ORC_DWARF:
        cfa = b"\x12" + uleb(ORC_DWARF[sp_reg]) + sleb(sp_off // -8) if sp_off % 8 == 0 else None  # DW_CFA_def_cfa_sf
    elif sp_reg in (ORC_BP_INDIRECT, ORC_SP_INDIRECT):
        inner, outer = (sp_off, 0) if sp_reg == ORC_BP_INDIRECT else (0, sp_off)
        base = 0x76 if sp_reg == ORC_BP_INDIRECT else 0x77  # DW_OP_breg6, 7
        code = bytes([base]) + sleb(inner) + b"\x06\x23" + uleb(outer)  # DW_OP_deref, DW_OP_plus_uconst
        cfa = b"\x0f" + uleb(len(code)) + code  # DW_CFA_def_cfa_expression
    else:
        cfa = None
    if cfa is None:
        # DW_CFA_undefined: the outermost frame, or nobody knows. gdb wants a frame address all the same.
        return b"\x12" + uleb(RSP) + sleb(-1) + b"\x07" + uleb(RA), False
    if kind != TYPE_CALL:
        saved = PT_REGS if kind == TYPE_REGS else IRET_FRAME
        return cfa + b"".join(at_cfa(reg, off) for reg, off in saved.items()), True
    bp = at_cfa(RBP, bp_off) if bp_reg == ORC_PREV_SP else b"\x08" + uleb(RBP)  # DW_CFA_same_value
    return cfa + at_cfa(RA, -8) + bp, False


def record(body):
    body += b"\0" * (-len(body) % 8)  # DW_CFA_nop
    return struct.pack("<I", len(body)) + body


def debug_frame(elf):
    ips, entries = elf.content(".orc_unwind_ip"), elf.content(".orc_unwind")
    start = elf.sections[".orc_unwind_ip"][0]
    rows = [(start + 4 * i + off, entry) for i, ((off,), entry) in
            enumerate(zip(struct.iter_unpack("<i", ips), struct.iter_unpack("<hhH", entries)))]
    # Code factor 1, data factor -8, the return address in column 16; the second one is for frames of interrupts.
    tail = uleb(1) + sleb(-8) + uleb(RA)
    out = [record(struct.pack("<IB", 0xFFFFFFFF, 4) + augmentation + b"\0\x08\0" + tail + more)
           for augmentation, more in ((b"", b""), (b"zS", b"\0"))]
    places = (0, len(out[0]))
    known = {}
    at = 0
    while at < len(rows) - 1:
        first, (_, interrupt) = rows[at][0], known.setdefault(rows[at][1], rules(rows[at][1]))
        code, here, last = b"", first, at
        while last < len(rows) - 1 and last - at < ROWS_PER_ENTRY:
            ip, entry = rows[last]
            if entry not in known:
                known[entry] = rules(entry)
            if known[entry][1] != interrupt:
                break
            if ip != here:
                code += b"\x04" + struct.pack("<I", ip - here)  # DW_CFA_advance_loc4
            code += known[entry][0]
            here, last = ip, last + 1
        out.append(record(struct.pack("<IQQ", places[interrupt], first, rows[last][0] - first) + (b"\0" if interrupt else b"") + code))
        at = last
    return b"".join(out)


# --- the file ---


def symbol_table(symbols, sections):
    """.symtab and .strtab; sections: (index, address, size) of those that symbols can be in."""
    table, strings = [bytes(24)], [b"\0"]
    length = 1
    for name, kind, address in symbols:
        place = next((i for i, at, size in sections if at <= address < at + size), SHN_ABS)
        info = (0x10 if kind.isupper() else 0) | (2 if kind in "tTwW" else 1)  # global; function or object
        table.append(struct.pack("<IBBHQQ", length, info, 0, place, address, 0))
        strings.append(name + b"\0")
        length += len(name) + 1
    local = [t for t in table if not t[4] & 0x10]
    return b"".join(local + [t for t in table if t[4] & 0x10]), b"".join(strings), len(local)


def write(path, elf, symbols, frames):
    kept = [(name, s) for name, s in elf.sections.items() if s[1] & SHF_ALLOC and s[0]]
    symtab, strtab, first_global = symbol_table(symbols, [(i + 1, s[0], s[3]) for i, (_, s) in enumerate(kept)])
    count = len(kept) + 1
    headers = [(name, SHT_NOBITS, s[1], s[0], b"", s[3], 0, 0, 0) for name, s in kept]
    headers += [(".symtab", SHT_SYMTAB, 0, 0, symtab, len(symtab), count + 1, first_global, 24), (".strtab", SHT_STRTAB, 0, 0, strtab, len(strtab), 0, 0, 0),
                (".debug_frame", SHT_PROGBITS, 0, 0, frames, len(frames), 0, 0, 0)]
    names = b"\0" + b"".join(h[0].encode() + b"\0" for h in headers) + b".shstrtab\0"
    headers.append((".shstrtab", SHT_STRTAB, 0, 0, names, len(names), 0, 0, 0))
    body, table, at = b"", [bytes(64)], 64
    for name, kind, flags, address, data, size, link, info, entry in headers:
        where = names.index(b"\0" + name.encode() + b"\0") + 1
        table.append(struct.pack("<IIQQQQIIQQ", where, kind, flags, address, at, size, link, info, 8, entry))
        data += b"\0" * (-len(data) % 8)
        body += data
        at += len(data)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, at, 0, 64, 56, 0, 64, len(table), len(table) - 1)
    with open(path, "wb") as f:
        f.write(header + body + b"".join(table))


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        elf = Elf(sys.argv[1])
        text = elf.sections[".text"][0]
        write(sys.argv[2], elf, kallsyms(elf.content(".rodata"), text), debug_frame(elf))
    except (OSError, ValueError) as e:
        sys.exit(f"kernel-symbols: {e}")


if __name__ == "__main__":
    main()
