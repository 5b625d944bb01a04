"""Guests of a few instructions: 32-bit code behind a multiboot header, put together byte by byte."""
import struct

LOAD = 0x100000
HEADER_BYTES = 32
COM1, COM1_LSR = 0x3F8, 0x3FD
PM1_CONTROL, SLEEP_S5 = 0x604, 1 << 13 | 5 << 10
DEBUG_EXIT, RESET_CONTROL, KEYBOARD_COMMAND = 0xF4, 0xCF9, 0x64
CMOS_INDEX, CMOS_DATA = 0x70, 0x71


class Blob:
    """Code in the order in which the methods are called; entered in flat protected mode, paging and interrupts off."""

    def __init__(self):
        self.code = bytearray()

    def image(self):
        magic, flags = 0x1BADB002, 1 << 16
        header = struct.pack("<8I", magic, flags, -(magic + flags) & 0xFFFFFFFF, LOAD, LOAD, 0, 0, LOAD + HEADER_BYTES)
        return header + bytes(self.code)

    def raw(self, *code):
        self.code += bytes(code)
        return self

    def here(self):
        return len(self.code)

    def jump(self, target):
        self.code += b"\xe9" + struct.pack("<i", target - (len(self.code) + 5))
        return self

    def _branch(self, opcode, target):
        self.code += bytes([0x0F, opcode]) + struct.pack("<i", target - (len(self.code) + 6))
        return self

    def jump_zero(self, target):
        return self._branch(0x84, target)

    def jump_not_zero(self, target):
        return self._branch(0x85, target)

    def skip_unless_al(self, value, body):
        """What body(self) adds runs only when AL is value."""
        other = Blob()
        other.code = bytearray(self.code) + b"\x3c\0\x0f\x85\0\0\0\0"  # the same place, so that its jumps are right
        body(other)
        added = other.code[len(self.code) + 8:]
        self.code += bytes([0x3C, value, 0x0F, 0x85]) + struct.pack("<i", len(added)) + added
        return self

    def dx(self, port):
        self.code += b"\x66\xba" + struct.pack("<H", port)
        return self

    def out(self, port, value):
        return self.dx(port).raw(0xB0, value, 0xEE)

    def out_word(self, port, value):
        self.dx(port)
        self.code += b"\x66\xb8" + struct.pack("<H", value) + b"\x66\xef"
        return self

    def read_byte(self, port):
        return self.dx(port).raw(0xEC)

    def print(self, text):
        data = text if isinstance(text, bytes) else text.encode()
        self.jump(len(self.code) + 5 + len(data))
        at = LOAD + HEADER_BYTES + len(self.code)
        self.code += data
        self.code += b"\xbe" + struct.pack("<I", at) + b"\xb9" + struct.pack("<I", len(data))
        again = self.here()
        self.read_byte(COM1_LSR).raw(0xA8, 0x20).jump_zero(again)
        self.dx(COM1).raw(0xAC, 0xEE, 0x49)  # lodsb; out dx, al; dec ecx
        return self.jump_not_zero(again)

    def power_off(self):
        return self.out_word(PM1_CONTROL, SLEEP_S5).spin()

    def debug_exit(self, value):
        return self.out(DEBUG_EXIT, value).spin()

    def triple_fault(self):
        """An empty interrupt table and a stack that is none."""
        at = LOAD + HEADER_BYTES + len(self.code) + 5
        self.jump(len(self.code) + 5 + 6).raw(0, 0, 0, 0, 0, 0)
        self.code += b"\x0f\x01\x1d" + struct.pack("<I", at)
        return self.raw(0x0F, 0x0B).spin()

    def spin(self):
        """For ever, interrupts off."""
        return self.raw(0xFA, 0xEB, 0xFE)

    def print_for_ever(self, text):
        again = self.here()
        return self.print(text).jump(again)

    def first_life(self, body):
        """What body(self) adds runs before the first reset only: CMOS byte 0x5c remembers, as batteries do."""
        self.out(CMOS_INDEX, 0x5C).read_byte(CMOS_DATA)
        return self.skip_unless_al(0, lambda b: body(b.out(CMOS_INDEX, 0x5C).out(CMOS_DATA, 1)))


def echo():
    """Says "ready", then <XX> for each byte that it gets, and [break]; 'q' powers off, 'd' uses the debug exit."""
    b = Blob().print("ready\n")
    again = b.here()
    b.read_byte(COM1_LSR).raw(0x88, 0xC3, 0xA8, 0x01).jump_zero(again)  # mov bl, al; test al, 1
    b.read_byte(COM1).raw(0x88, 0xC7)  # mov bh, al
    b.raw(0x88, 0xD8, 0x24, 0x10)  # mov al, bl; and al, 0x10
    b.skip_unless_al(0x10, lambda x: x.print("[break]\n").jump(again))
    b.print("<").raw(0x88, 0xF8, 0xC0, 0xE8, 0x04)  # mov al, bh; shr al, 4
    _digit(b)
    b.raw(0x88, 0xF8, 0x24, 0x0F)  # mov al, bh; and al, 15
    _digit(b)
    b.print(">\n").raw(0x88, 0xF8)
    b.skip_unless_al(ord("q"), lambda x: x.print("bye\n").power_off())
    b.skip_unless_al(ord("d"), lambda x: x.debug_exit(3))
    return b.jump(again)


def _digit(b):
    """AL, 0 to 15, as a hexadecimal digit to the serial port: the arithmetic of cmp al, 10; sbb al, 0x69; das."""
    b.raw(0x3C, 0x0A, 0x1C, 0x69, 0x2F).dx(COM1).raw(0xEE)
