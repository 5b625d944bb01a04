"""The static trace points are in the binary, for perf, bpftrace and gdb to find."""
import re
import subprocess

from conftest import BINARY

POINTS = {"vm_entry": 1, "vm_exit": 3, "kick": 2, "completion": 3, "interrupt": 3, "inject": 2, "shadow_fill": 3}  # by their arguments


def test_every_trace_point_is_named_in_the_binarys_notes():
    notes = subprocess.run(["readelf", "-n", BINARY], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"Provider: umbra\n\s+Name: (\w+)\n.*\n\s+Arguments: (.*)", notes)
    assert {name for name, _ in found} == set(POINTS)
    for name, arguments in found:
        assert len(arguments.split()) == POINTS[name], (name, arguments)
