#!/usr/bin/python3
"""Disk and network throughput from within one guest, under QEMU's TCG and under Umbra in turn, as a Markdown table of min/median/max.

    tests/bench/io.py [ROUNDS [SECONDS]]

Kernel, initramfs, memory, command line and devices are the same. The peer runs on the host. Both tap and user-mode networking are measured,
in a network namespace of this script's own, for which it needs no privilege where user namespaces are allowed.
"""
import functools
import os
import subprocess
import sys
import tempfile

import bench
import vm

DISK_BYTES = 1 << 30
TAP, HOST, GUEST = "umbra0", "192.168.77.1", "192.168.77.2"
INLINE = "Umbra, inline"
bench.RIVALS[INLINE] = bench.UMBRA
FLAGS = {INLINE: ["--queue-work", "inline"]}


def devices(is_qemu, disk):
    if not is_qemu:
        return ["--disk", disk, "--net", "user", "--net", f"tap={TAP}"]
    return ["-drive", f"file={disk},if=none,format=raw,id=d", "-device", "virtio-blk-pci,drive=d",
            "-netdev", "user,id=u", "-device", "virtio-net-pci,netdev=u",
            "-netdev", f"tap,id=t,ifname={TAP},script=no,downscript=no", "-device", "virtio-net-pci,netdev=t"]


def measure(rival, initrd, disk, port, seconds):
    """One boot: {row: (value, unit)}."""
    bench.choose(rival)
    with vm.Vm(initrd=initrd, memory=bench.MEMORY, extra=devices(vm.IS_QEMU, disk) + FLAGS.get(rival, [])) as guest:
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
    return bench.rows_of(output)


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
    program = bench.build("io_bench", "io_bench.c")
    with tempfile.TemporaryDirectory(prefix="umbra-bench-") as folder:
        initrd, disk = bench.initrd(folder, program), os.path.join(folder, "disk.img")
        subprocess.run(["fallocate", "-l", str(DISK_BYTES), disk], check=True)
        with subprocess.Popen([program, "serve"], stdout=subprocess.PIPE, text=True) as peer:
            port = int(peer.stdout.readline())
            try:
                results = bench.in_turn(rounds, {rival: functools.partial(measure, rival, initrd, disk, port, seconds) for rival in bench.RIVALS})
            finally:
                peer.kill()
    bench.table(results, [(bench.TCG, bench.OURS), (bench.TCG, INLINE)])


if __name__ == "__main__":
    main()
