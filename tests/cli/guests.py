"""Guests of a few instructions, as multiboot images: loaded at 1 MiB, entered in 32-bit mode with interrupts off."""
import struct

LOAD = 0x100000


def image(code, load=LOAD):
    magic, flags = 0x1BADB002, 0x10000  # with addresses
    return struct.pack("<8I", magic, flags, -(magic + flags) & 0xFFFFFFFF, load, load, 0, 0, load + 32) + code


def out8(port, value):
    return b"\xb0" + bytes([value]) + b"\x66\xba" + struct.pack("<H", port) + b"\xee"


def say(text):
    return b"".join(out8(0x3F8, byte) for byte in text.encode())


STOP = b"\xfa\xf4\xeb\xfd"  # cli, hlt again and again
SPIN = b"\xfa\xeb\xfe"
POWER_OFF = b"\x66\xb8\x00\x34\x66\xba\x04\x06\x66\xef" + STOP
RESET = out8(0xCF9, 6) + STOP
TRIPLE_FAULT = b"\x0f\x01\x1d\x00\x00\x20\x00\xcc"  # an empty IDT, and a breakpoint
WAIT_FOR_BYTE = b"\x66\xba\xfd\x03\xec\xa8\x01\x74\xf7\x66\xba\xf8\x03\xec"  # into al
# Sends back what it gets, a byte at a time; a q powers off.
ECHO = out8(0x3FC, 3) + WAIT_FOR_BYTE + b"\xee\x3c\x71\x75" + bytes([256 - len(WAIT_FOR_BYTE) - 5]) + POWER_OFF


# Enables the ACPI power button, waits until it is pressed, and powers off.
POWER_BUTTON = b"\x66\xb8\x00\x01\x66\xba\x02\x06\x66\xef\x66\xba\x00\x06\x66\xed\xf6\xc4\x01\x74\xf5" + POWER_OFF


def poke32(address, value):
    return b"\xc7\x05" + struct.pack("<II", address, value)


def debug_exit(value):
    return out8(0xF4, value) + STOP


def print_dots(count):
    """So many dots, each when the transmitter is empty."""
    return b"\xb9" + struct.pack("<I", count) + b"\x66\xba\xfd\x03\xec\xa8\x20\x74\xf7\x66\xba\xf8\x03\xb0.\xee\xe2\xee"


PRINT_FOR_EVER = b"\x66\xba\xfd\x03\xec\xa8\x20\x74\xf7\x66\xba\xf8\x03\xb0.\xee\xeb\xee"
