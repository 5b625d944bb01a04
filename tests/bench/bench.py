"""What the benchmarks share: programs and their initramfs, the rivals, guests that run a program, and the tables of min/median/max."""
import os
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "linux"))
import programs  # noqa: E402
import vm  # noqa: E402

OUT = os.path.join(ROOT, "build", "bench")
UMBRA = os.path.join(ROOT, "build", "umbra")
NATIVE, TCG, OURS = "native", "QEMU TCG", "Umbra"
RIVALS = {TCG: "qemu", OURS: UMBRA}
MEMORY = "1G"
LESS_IS_BETTER = ("ns", "us", "s")


def build(name, *sources):
    """The program tests/bench/SOURCES, static; returns its file's name."""
    os.makedirs(OUT, exist_ok=True)
    out = os.path.join(OUT, name)
    subprocess.run(["gcc", "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-static", "-pthread", "-o", out,
                    *(os.path.join(ROOT, "tests", "bench", s) for s in sources)], check=True)
    return out


def initrd(folder, program):
    """The default initramfs with the program in /bin behind it; returns its file's name."""
    with open(vm.INITRD, "rb") as f:
        image = f.read()
    image += b"\0" * (-len(image) % 4)
    with open(program, "rb") as f:
        image += programs.cpio_entry("bin/" + os.path.basename(program), 0o100755, f.read()) + programs.cpio_entry("TRAILER!!!", 0)
    name = os.path.join(folder, "initrd.img")
    with open(name, "wb") as f:
        f.write(image)
    return name


def choose(rival):
    """The guests that are made from now on are the rival's."""
    vm.BINARY = RIVALS[rival]
    vm.IS_QEMU = vm.BINARY == "qemu"


def rows_of(output):
    """{name: (value, unit)} of the lines "row NAME|VALUE|UNIT"."""
    rows = {}
    for line in output.splitlines():
        if line.startswith("row "):
            name, value, unit = line[4:].split("|")
            rows[name] = (float(value), unit)
    return rows


class Stopwatch:
    """Rows of seconds since it was made."""

    def __init__(self):
        self.start, self.rows = time.monotonic(), {}

    def note(self, name):
        self.rows[name] = (time.monotonic() - self.start, "s")


def in_turn(rounds, measures):
    """measures: {rival: function that returns rows}; each in each round. Returns {rival: [rows of a round]}."""
    results = {rival: [] for rival in measures}
    for number in range(rounds):
        for rival, measure in measures.items():
            print(f"round {number + 1} of {rounds}: {rival}", file=sys.stderr, flush=True)
            results[rival].append(measure())
    return results


def number(value):
    """Three digits at least."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(results, ratios):
    """
    Prints {rival: [rows of a round]}: min / median / max, and for each (a, b) of ratios how many times as long a takes as b, by their medians,
    with the geometric mean of all rows below.
    """
    names = next(iter(results.values()))[0]
    print("| | unit | " + " | ".join([*results, *(f"{a} / {b}" for a, b in ratios)]) + " |")
    print("|---|---|" + "---|" * (len(results) + len(ratios)))
    products = {pair: [] for pair in ratios}
    for name, (_, unit) in names.items():
        cells, medians = [], {}
        for rival, rounds in results.items():
            values = [r[name][0] for r in rounds]
            medians[rival] = statistics.median(values)
            cells.append(" / ".join(number(v) for v in (min(values), medians[rival], max(values))))
        for a, b in ratios:
            ratio = medians[a] / medians[b] if unit in LESS_IS_BETTER else medians[b] / medians[a]
            products[a, b].append(ratio)
            cells.append(number(ratio))
        print(f"| {name} | {unit} | " + " | ".join(cells) + " |")
    if ratios:
        print("| geometric mean | |" + " |" * len(results) + "".join(f" {number(statistics.geometric_mean(p))} |" for p in products.values()), flush=True)
