"""Boots of their own: every kernel and initrd, the ways in which a guest ends, terminals that do not answer, statistics."""
import json
import os
import re
import signal
import subprocess
import termios

import pytest

import vm

KERNELS = [("cloud", "vmlinuz"), ("cloud", "vmlinux"), ("generic", "vmlinuz"), ("generic", "vmlinux")]


def kernel(flavour, name):
    path = os.path.join(vm.GUEST, flavour, name)
    assert os.path.exists(path), f"{path} is missing: tools/guest-kernel.sh {flavour}"
    return path


def test_poweroff_ends_with_status_0():
    with vm.Vm() as guest:
        guest.prompt()
        guest.send("poweroff\r")
        assert guest.wait() == 0


def test_reboot_starts_the_guest_again():
    with vm.Vm() as guest:
        guest.expect(vm.BANNER, vm.BOOT_TIMEOUT)
        guest.prompt()
        guest.run("touch /tmp/before")
        guest.send("reboot\r")
        guest.expect(vm.BANNER, vm.BOOT_TIMEOUT)
        guest.prompt()
        assert guest.status_and_output("test -e /tmp/before")[0] == 1
        guest.send("poweroff\r")
        assert guest.wait() == 0


def test_reboot_ends_with_status_0_when_nobody_wants_it():
    with vm.Vm(no_reboot=True) as guest:
        guest.prompt()
        guest.send("reboot -f\r")
        assert guest.wait() == 0
        assert guest.output.count(vm.BANNER) == 1


@pytest.mark.umbra_only
def test_a_panic_ends_with_status_4_and_its_reason():
    with vm.Vm(append=vm.APPEND + " panic=0") as guest:
        guest.prompt()
        guest.send("echo c >/proc/sysrq-trigger\r")
        assert guest.wait() == 4
        assert re.search(r"umbra: .*panic.*sysrq triggered crash", guest.output)


def test_a_panic_reboots_where_the_command_line_says_so():
    with vm.Vm(append=vm.APPEND + " panic=-1") as guest:
        guest.expect(vm.BANNER, vm.BOOT_TIMEOUT)
        guest.prompt()
        guest.send("echo c >/proc/sysrq-trigger\r")
        guest.expect(vm.BANNER, vm.BOOT_TIMEOUT)
        guest.prompt()


@pytest.mark.umbra_only
def test_a_signal_ends_umbra_and_gives_the_terminal_back():
    with vm.Vm() as guest:
        before = termios.tcgetattr(guest.master)
        guest.prompt()
        assert termios.tcgetattr(guest.master)[3] != before[3]
        guest.signal(signal.SIGTERM)
        assert guest.wait() == 128 + signal.SIGTERM
        assert termios.tcgetattr(guest.master) == before


@pytest.mark.umbra_only
def test_the_escape_key_quits():
    with vm.Vm() as guest:
        guest.prompt()
        guest.send("\x01h")
        guest.expect("Ctrl-a x")
        guest.send("\x01x")
        assert guest.wait() == 0


def test_a_terminal_that_does_not_answer_is_24_by_80():
    with vm.Vm(answers=False) as guest:
        guest.prompt()
        assert guest.run("stty size") == "24 80\n"


def test_it_runs_without_a_terminal():
    """Input from a pipe, output to a pipe."""
    argv = vm.command_line(vm.BINARY, vm.KERNEL, vm.INITRD, vm.APPEND, "256M", True, ())
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            output = b""
            while not re.search(vm.PROMPT.encode(), output):
                piece = os.read(process.stdout.fileno(), 4096)
                assert piece, output.decode(errors="replace")
                output += piece
            process.stdin.write(b"echo six times seven is $((6 * 7)); poweroff\n")
            process.stdin.flush()
            output += process.communicate(timeout=vm.TIMEOUT * vm.SCALE)[0]
            assert b"six times seven is 42\r" in output
            assert process.returncode == 0
        finally:
            process.kill()


@pytest.mark.umbra_only
def test_it_runs_with_standard_input_closed(tmp_path):
    log = tmp_path / "console"
    argv = vm.command_line(vm.BINARY, vm.KERNEL, vm.INITRD, vm.APPEND + " rdinit=/bin/poweroff", "256M", True, ("--console", f"file:{log}"))
    done = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *argv], capture_output=True, timeout=vm.BOOT_TIMEOUT * vm.SCALE, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.umbra_only
def test_statistics_are_json_and_plausible(tmp_path):
    path = tmp_path / "stats.json"
    with vm.Vm(extra=(f"--stats={path}",)) as guest:
        guest.prompt()
        guest.run("seq 1000 >/dev/null")
        guest.send("poweroff\r")
        assert guest.wait() == 0
    with open(path, encoding="utf-8") as f:
        stats = json.load(f)
    assert stats["seconds"] > 0
    assert stats["vcpu0"]["PIO"]["count"] > 0 and stats["vcpu0"]["HLT"]["count"] > 0
    engine = stats["engine"]
    for name in ("blocks_translated", "shadow_fills", "page_walks", "interrupts", "syscalls", "cr_writes"):
        assert engine[name] > 0, name
    assert stats["exceptions"]["PF"] > 100


@pytest.mark.parametrize("flavour,name", KERNELS[1:])
def test_kernels_boot_as_bzimage_and_as_elf(flavour, name):
    with vm.Vm(kernel=kernel(flavour, name), append="console=ttyS0") as guest:
        guest.prompt(120)
        assert guest.run("uname -r").strip() == open(os.path.join(vm.GUEST, flavour, "version"), encoding="utf-8").read().strip()
        guest.send("poweroff\r")
        assert guest.wait() == 0


# The generic one takes minutes to make.
@pytest.mark.parametrize("flavour", ["cloud", pytest.param("generic", marks=pytest.mark.soak)])
def test_initrds_of_initramfs_tools_reach_their_emergency_prompt(flavour):
    initrd = os.path.join(vm.GUEST, flavour, "initrd.img")
    if not os.path.exists(initrd):
        pytest.fail(f"{initrd} is missing: tools/guest-initramfs-tools.sh")
    with vm.Vm(kernel=kernel(flavour, "vmlinuz"), initrd=initrd, append="console=ttyS0", answers=False) as guest:
        guest.expect(r"\(initramfs\) ", 120)
        guest.send("echo $((6 * 7)) is here\r")
        guest.expect(r"\n42 is here\r")


@pytest.mark.soak
@pytest.mark.umbra_only
@pytest.mark.parametrize("mode,minutes", [("step", 30), ("lockstep", 60)])
def test_the_other_modes_of_the_engine_boot_too(mode, minutes):
    """step alone, and every translated block compared with it."""
    with vm.Vm(env={"UMBRA_SOFT": mode}) as guest:
        guest.prompt(minutes * 60)
        assert guest.run("seq 1000 | md5sum", 600).split()[0] == "53d025127ae99ab79e8502aae2d9bea6"
        guest.send("poweroff\r")
        assert guest.wait(600) == 0


@pytest.mark.umbra_only
def test_a_small_code_cache_is_emptied_when_it_is_full(tmp_path):
    path = tmp_path / "stats.json"
    with vm.Vm(extra=(f"--stats={path}", "--code-cache", "8M")) as guest:
        guest.prompt()
        assert "17" in guest.run("echo $((8 + 9))")
        guest.send("poweroff\r")
        assert guest.wait() == 0
    with open(path, encoding="utf-8") as f:
        engine = json.load(f)["engine"]
    assert engine["code_cache_flushes"] > 0
    assert engine["code_cache_bytes"] + engine["code_cache_bytes_cold"] <= 8 << 20
