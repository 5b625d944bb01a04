"""The static trace points: in the binary for perf, bpftrace and gdb to find, and hit as often as umbra itself counts."""
import json
import os
import re
import shutil
import subprocess

import pytest

import guests
from conftest import BINARY, ROOT, TIMEOUT

POINTS = {"vm_entry": 1, "vm_exit": 3, "kick": 2, "completion": 3, "interrupt": 3, "inject": 2, "shadow_fill": 3}  # by their arguments
PIO = 0  # enum vm_exit_reason
DOTS = 500


def test_every_trace_point_is_named_in_the_binarys_notes():
    notes = subprocess.run(["readelf", "-n", BINARY], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"Provider: umbra\n\s+Name: (\w+)\n.*\n\s+Arguments: (.*)", notes)
    assert {name for name, _ in found} == set(POINTS)
    for name, arguments in found:
        assert len(arguments.split()) == POINTS[name], (name, arguments)


def test_the_documentation_names_every_trace_point():
    with open(os.path.join(ROOT, "docs", "tracing.md"), encoding="utf-8") as f:
        table = re.search(r"^\| point .*?\n\n", f.read(), re.M | re.S)
    assert set(re.findall(r"^\| `(\w+)` \|", table[0], re.M)) == set(POINTS)


@pytest.fixture(name="bpftrace")
def bpftrace_here():
    """bpftrace(PROGRAM, COMMAND...): its maps after the command's end. Skips where the host lets nobody attach."""
    if not shutil.which("bpftrace"):
        pytest.skip("bpftrace is not installed")

    def run(program, *command):
        argv = ["bpftrace", "-f", "json", "-e", program] + (["-c", " ".join(command)] if command else [])
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT, check=False)

    tried = run(f"BEGIN {{ exit(); }} usdt:{BINARY}:umbra:vm_entry {{ @ = count(); }}")
    if tried.returncode or "attached_probes" not in tried.stdout:
        pytest.skip("this host lets bpftrace attach to nothing: " + " ".join((tried.stderr or tried.stdout).split()[-20:]))

    def maps(program, *command):
        done = run(program, *command)
        found = {}
        for line in done.stdout.splitlines():
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("type") == "map":
                found.update(event["data"])
        assert found, done.stderr
        return found

    return maps


def test_bpftrace_counts_the_entries_and_exits_that_umbra_counts(bpftrace, kernel, tmp_path):
    stats = tmp_path / "stats.json"
    point = f"usdt:{BINARY}:umbra"
    maps = bpftrace(f"{point}:vm_entry {{ @entries = count(); }} {point}:vm_exit {{ @exits[arg1] = count(); }}",
                    BINARY, "run", "--memory", "4M", "--kernel", kernel(guests.print_dots(DOTS) + guests.POWER_OFF),
                    "--console", f"file:{tmp_path}/out", f"--stats={stats}")
    assert (tmp_path / "out").read_text(encoding="ascii") == DOTS * "."
    counted = json.loads(stats.read_text(encoding="ascii"))["vcpu0"]["PIO"]["count"]
    assert maps["@exits"][str(PIO)] == counted >= 2 * DOTS
    assert maps["@entries"] == sum(maps["@exits"].values())  # each entry ended


def test_bpftrace_reads_which_page_a_shadow_entry_is_for(bpftrace, kernel, tmp_path):
    program = f"usdt:{BINARY}:umbra:shadow_fill {{ @pages[arg1, arg2] = count(); }}"
    code = guests.poke32(0x200004, 0) + guests.POWER_OFF
    maps = bpftrace(program, BINARY, "run", "--engine", "soft", "--memory", "4M", "--kernel", kernel(code), "--console", f"file:{tmp_path}/out")
    assert maps["@pages"] == {f"{0x200004},{0x200004}": 1}
