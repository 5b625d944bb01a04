#!/usr/bin/python3
"""Disk and network throughput from within one guest, under QEMU's TCG and under Umbra in turn, as a Markdown table of min/median/max.

    tests/bench/io.py [ROUNDS [SECONDS]]

Kernel, initramfs, memory, command line and devices are the same. The peer runs on the host. Both tap and user-mode networking are measured,
in a network namespace of this script's own, for which it needs no privilege where user namespaces are allowed.
"""
import os
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "linux"))
import programs  # noqa: E402
import vm  # noqa: E402

PROGRAM = os.path.join(ROOT, "build", "bench", "io_bench")
DISK_BYTES = 1 << 30
TAP, HOST, GUEST = "umbra0", "192.168.77.1", "192.168.77.2"
UMBRA = os.path.join(ROOT, "build", "umbra")
RIVALS = {"QEMU TCG": ("qemu", []), "Umbra": (UMBRA, []), "Umbra, inline": (UMBRA, ["--queue-work", "inline"])}


def build(folder):
    """The program, and the default initramfs with it behind; returns the initramfs's name."""
    os.makedirs(os.path.dirname(PROGRAM), exist_ok=True)
    subprocess.run(["gcc", "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-static", "-pthread", "-o", PROGRAM,
                    os.path.join(ROOT, "tests", "bench", "io_bench.c")], check=True)
    with open(vm.INITRD, "rb") as f:
        image = f.read()
    image += b"\0" * (-len(image) % 4)
    with open(PROGRAM, "rb") as f:
        image += programs.cpio_entry("bin/io_bench", 0o100755, f.read()) + programs.cpio_entry("TRAILER!!!", 0)
    name = os.path.join(folder, "initrd.img")
    with open(name, "wb") as f:
        f.write(image)
    return name


def devices(is_qemu, disk):
    if not is_qemu:
        return ["--disk", disk, "--net", "user", "--net", f"tap={TAP}"]
    return ["-drive", f"file={disk},if=none,format=raw,id=d", "-device", "virtio-blk-pci,drive=d",
            "-netdev", "user,id=u", "-device", "virtio-net-pci,netdev=u",
            "-netdev", f"tap,id=t,ifname={TAP},script=no,downscript=no", "-device", "virtio-net-pci,netdev=t"]


def measure(rival, initrd, disk, port, seconds):
    """One boot: {row: (value, unit)}."""
    vm.BINARY, flags = RIVALS[rival]
    vm.IS_QEMU = vm.BINARY == "qemu"
    rows = {}
    with vm.Vm(initrd=initrd, memory="1G", extra=devices(vm.IS_QEMU, disk) + flags) as guest:
        guest.prompt()
        guest.run("killall udhcpc 2>/dev/null; umount /dev/vda 2>/dev/null; sleep 1; true")
        guest.run("ip addr flush eth0; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; true")
        guest.run(f"ip addr flush eth1; ip link set eth1 up; ip addr add {GUEST}/24 dev eth1")
        guest.run("ping -c 1 10.0.2.2 >/dev/null; ping -c 3 " + HOST)
        output = guest.run(f"io_bench disk /dev/vda {seconds}", 600)
        output += guest.run(f"io_bench net user 10.0.2.2 {port} {seconds}", 600)
        output += guest.run(f"io_bench net tap {HOST} {port} {seconds}", 600)
        guest.send("poweroff\n")
        guest.wait()
    for line in output.splitlines():
        if line.startswith("row "):
            name, value, unit = line[4:].split("|")
            rows[name] = (float(value), unit)
    return rows


def table(results):
    """results: {rival: [rows of a round]}. Behind each of ours how many times better its median is than the first rival's."""
    print("| | unit | " + " | ".join(f"{rival}: min / median / max" for rival in results) + " |")
    print("|---|---|" + "---|" * len(results))
    for name, (_, unit) in results["Umbra"][0].items():
        cells, medians = [], []
        for rounds in results.values():
            values = [r[name][0] for r in rounds]
            medians.append(statistics.median(values))
            ratio = medians[0] / medians[-1] if unit == "us" else medians[-1] / medians[0]
            cells.append(f"{min(values):.0f} / {medians[-1]:.0f} / {max(values):.0f}" + (f" ({ratio:.1f})" if len(medians) > 1 else ""))
        print(f"| {name} | {unit} | " + " | ".join(cells) + " |")


def in_namespace():
    """Again, in namespaces where a tap may be made."""
    if os.environ.get("UMBRA_BENCH_NAMESPACE"):
        return
    os.environ["UMBRA_BENCH_NAMESPACE"] = "1"
    os.execvp("unshare", ["unshare", "--user", "--map-root-user", "--net", sys.executable, os.path.abspath(__file__), *sys.argv[1:]])


def main():
    in_namespace()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 3
    for command in ("ip link set lo up", f"ip tuntap add {TAP} mode tap", f"ip addr add {HOST}/24 dev {TAP}", f"ip link set {TAP} up"):
        subprocess.run(command.split(), check=True)
    with tempfile.TemporaryDirectory(prefix="umbra-bench-") as folder:
        initrd, disk = build(folder), os.path.join(folder, "disk.img")
        subprocess.run(["fallocate", "-l", str(DISK_BYTES), disk], check=True)
        with subprocess.Popen([PROGRAM, "serve"], stdout=subprocess.PIPE, text=True) as peer:
            port = int(peer.stdout.readline())
            try:
                results = {rival: [] for rival in RIVALS}
                for number in range(rounds):
                    for rival, done in results.items():
                        print(f"round {number + 1} of {rounds}: {rival}", file=sys.stderr, flush=True)
                        done.append(measure(rival, initrd, disk, port, seconds))
            finally:
                peer.kill()
    table(results)


if __name__ == "__main__":
    main()
