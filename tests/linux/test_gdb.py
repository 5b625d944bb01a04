"""Debian's gdb on a stock kernel: symbols and call frames of the kernel's own tables, from its first instruction to its prompt and beyond."""
import os
import re
import shutil
import subprocess
import time

import pytest

import vm

pytestmark = [pytest.mark.umbra_only, pytest.mark.skipif(not shutil.which("gdb"), reason="gdb is not installed")]

VMLINUX = os.path.join(vm.GUEST, "cloud", "vmlinux")
NO_KASLR = vm.APPEND + " nokaslr"
TIMEOUT = 120 * vm.SCALE
# Who moves the clock on: the tick, an interrupt that finds the processor idle, the end of idleness.
WAYS_TO_JIFFIES = (("tick_sched_timer", "sysvec_apic_timer_interrupt"), ("tick_irq_enter", "irq_enter_rcu"), ("tick_nohz_restart_sched_tick", "do_idle"))


@pytest.fixture(scope="session")
def symbols(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("symbols") / "vmlinux")
    subprocess.run([os.path.join(vm.ROOT, "tools", "kernel-symbols.py"), VMLINUX, path], check=True)
    return path


class Gdb:
    """gdb -batch with these commands; attached is when the guest stands."""

    def __init__(self, folder, symbols, commands):
        self.sign = str(folder / "attached")
        deadline = time.monotonic() + TIMEOUT
        while not os.path.exists(folder / "gdb"):
            assert time.monotonic() < deadline, "umbra opens no socket for gdb"
            time.sleep(0.05)
        lines = ["set confirm off", "set pagination off", "set width 0", f"target remote {folder / 'gdb'}", f"shell touch {self.sign}", *commands]
        line = ["gdb", "-q", "-nx", "-batch"] + [word for command in lines for word in ("-ex", command)]
        self.process = subprocess.Popen([*line, symbols], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                        cwd=folder)

    def wait_attached(self):
        deadline = time.monotonic() + TIMEOUT
        while not os.path.exists(self.sign):
            assert self.process.poll() is None and time.monotonic() < deadline, "gdb did not attach"
            time.sleep(0.05)

    def output(self):
        try:
            return self.process.communicate(timeout=TIMEOUT)[0]
        finally:
            self.process.kill()


def guest_with_gdb(folder, more="", cpus=1):
    return vm.Vm(append=NO_KASLR, extra=["--gdb", f"unix:{folder / 'gdb'}{more}", "--cpus", str(cpus)])


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_system_call_is_stopped_stepped_and_watched_and_the_guest_goes_on(tmp_path, symbols, cpus):
    with guest_with_gdb(tmp_path, cpus=cpus) as guest:
        guest.prompt()
        gdb = Gdb(tmp_path, symbols, ["break do_sys_openat2", "continue", "backtrace", "x/s $rsi", "stepi 3", "info registers rip", "finish", "delete",
                                      "watch *(unsigned long *)&jiffies_64", "continue", "continue", "backtrace", "delete", "info threads", "detach"])
        gdb.wait_attached()
        guest.send("cat /proc/version\n")
        output = gdb.output()
        assert re.search(r"#0  0x\w+ in do_sys_openat2 \(\)\n#1  0x\w+ in __x64_sys_openat \(\)\n#2  0x\w+ in do_syscall_64 \(\)\n", output), output
        assert "<do_sys_openat2+10>" in output and "in __x64_sys_openat ()" in output.split("<do_sys_openat2+10>")[1]
        changes = re.findall(r"Old value = (\d+)\nNew value = (\d+)\n.* in tick_do_update_jiffies64", output)
        assert len(changes) == 2 and all(int(new) > int(old) for old, new in changes), output
        frames = re.findall(r"^#\d+ +0x\w+ in (\w+) \(\)", output[output.rindex("tick_do_update_jiffies64 ()\n#1"):], re.M)
        assert any(set(way) <= set(frames) for way in WAYS_TO_JIFFIES), output
        assert re.findall(r"Thread (\d) \(CPU \d", output) == [str(n + 1) for n in range(cpus)]
        guest.expect(r"Linux version 6")
        guest.prompt(vm.TIMEOUT)
        assert guest.run("seq 100000 | md5sum").split()[0] == "dea9193b768319cbb4ff1a137ac03113"


def test_a_kernel_is_followed_from_its_first_instruction(tmp_path, symbols):
    with guest_with_gdb(tmp_path, ",wait", cpus=2) as guest:
        gdb = Gdb(tmp_path, symbols, ["info registers rip cr0 efer", "info threads", "break start_kernel", "continue", "backtrace 1", "delete", "break kernel_init",
                                      "continue", "backtrace", "detach"])
        output = gdb.output()
        assert re.search(r"^rip +0x1000000 ", output, re.M) and re.search(r"\[ PE .*PG \]", output) and "LMA" in output, output
        assert "Thread 2 (CPU 1, not started)" in output
        assert "in start_kernel ()" in output and re.search(r"in kernel_init \(\)\n#1 .* in ret_from_fork", output), output
        guest.prompt()
        # Again, while it is at work.
        assert "#" in Gdb(tmp_path, symbols, ["backtrace", "detach"]).output()
        assert guest.run("echo alive") == "alive\n"
