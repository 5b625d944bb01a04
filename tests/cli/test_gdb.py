"""--gdb: Debian's gdb attached to tiny guests: breakpoints, watchpoints, steps, Ctrl-C, detaching, and how a VM ends under it."""
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest

import guests
from conftest import ROOT, TIMEOUT

GUESTS = os.path.abspath(os.environ.get("GUESTS", os.path.join(ROOT, "build", "release", "guest")))
ENDED = "[Inferior 1 (Remote target) exited"
SCRIPT = ["set confirm off", "set pagination off", "set width 0", "set breakpoint pending off"]

pytestmark = pytest.mark.skipif(not shutil.which("gdb"), reason="gdb is not installed")


def arguments(place, commands, symbols):
    line = ["gdb", "-q", "-nx", "-batch"]
    for command in SCRIPT + ["target remote " + place] + list(commands):
        line += ["-ex", command]
    return line + ([symbols] if symbols else [])


class Debugged:
    """A guest with its --gdb socket; gdb(COMMAND...) attaches, carries them out and detaches or whatever they say: its output."""

    def __init__(self, start, tmp_path, image, *args, **more):
        self.socket = str(tmp_path / "gdb.sock")
        self.symbols = None
        if not os.path.isabs(image):
            # gdb takes the architecture of the file, and these are 64-bit code in a 32-bit container.
            self.symbols = str(tmp_path / "symbols.elf")
            image = os.path.join(GUESTS, image + ".elf")
            subprocess.run(["objcopy", "-O", "elf64-x86-64", image, self.symbols], check=True)
        self.process = start("run", "--kernel", image, "--debug-exit", *args, "--gdb", f"unix:{self.socket},wait", **more)
        deadline = time.monotonic() + TIMEOUT
        while not os.path.exists(self.socket):
            assert self.process.poll() is None, self.process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def gdb(self, *commands):
        done = subprocess.run(arguments(self.socket, commands, self.symbols), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=TIMEOUT, check=False, stdin=subprocess.DEVNULL, cwd=os.path.dirname(self.socket))
        return done.stdout

    def end(self):
        """The status and what the guest printed."""
        output = self.process.stdout.read().decode()
        return self.process.wait(TIMEOUT), output.replace("\r", "")


@pytest.fixture
def debugged(start, tmp_path):
    return lambda image, *args, **more: Debugged(start, tmp_path, image, *args, **more)


@pytest.fixture(params=["translate", "step", "lockstep"])
def mode(request):
    """The ways in which the software engine runs code."""
    return {**os.environ, "UMBRA_SOFT": request.param}


# --- breakpoints and steps ---


def test_breakpoints_stop_there_with_registers_and_callers(debugged, mode):
    vm = debugged("debuggee", env=mode)
    output = vm.gdb("break inner", "continue", "backtrace 3", "print $rdi", "continue", "print $rdi", "delete", "hbreak outer", "continue", "print $rdi",
                    "info threads")
    assert re.search(r"#0 .* in inner \(\)\n#1 .* in outer \(\)\n#2 .* in functions_call_each_other \(\)", output), output
    assert re.findall(r"^\$\d+ = (\d+)", output, re.M) == ["2", "3", "3"], output
    assert "Thread 1 (CPU 0, kernel)" in output
    assert vm.end()[0] == 1


def test_steps_finish_and_until(debugged, mode):
    vm = debugged("debuggee", env=mode)
    output = vm.gdb("break inner", "continue", "stepi", "stepi", "stepi", "print *(int *)&counter", "finish", "print $rip == *(long *)($rsp - 8)", "print $eax",
                    "delete", "break fill", "continue", "stepi 3", "stepi", "stepi", "print $rcx", "x/i $rip", "stepi 62", "x/i $rip")
    assert re.search(r"\$1 = 2\n(.*\n)*\$2 = 1\n\$3 = 2\n", output), output
    assert re.search(r"\$4 = 62\n=> .*rep stos", output), output
    assert re.search(r"=> .*:\tret", output), output
    assert vm.end()[0] == 1


def test_code_in_a_page_with_breakpoints_and_elsewhere_runs_on_as_before(debugged, mode):
    vm = debugged("debuggee", env=mode)
    output = vm.gdb("break constant", "ignore 1 300", "continue", "info breakpoints", "delete")
    assert "already hit 301 times" in output
    assert vm.end() == (1, "# the answer is 42\nok functions call each other\n# the sum is 2000\n# the sum is 2000\nok code runs often\n"
                        "ok memory is filled\nok a fault is survived\n4 passed, 0 failed, 0 skipped\n")


def test_a_fault_is_stepped_into_its_handler(debugged):
    vm = debugged("debuggee")
    output = vm.gdb("break a_fault_is_survived", "continue", "delete", *["stepi"] * 30, "info registers rip", "backtrace 1")
    assert re.search(r"in vector_?\w*|in \w*common\w*|in fault\w*", output), output
    assert vm.end()[0] == 1


# --- watchpoints ---


def test_watchpoints_stop_behind_the_access(debugged, mode):
    vm = debugged("debuggee", env=mode)
    output = vm.gdb("watch *(int *)&counter if *(int *)&counter == 5", "continue", "delete", "rwatch *(int *)&answer", "continue", "delete",
                    "awatch *((char *)&buffer + 40)", "continue", "print $rcx")
    assert re.search(r"Old value = 2\nNew value = 5\n.* in inner \(\)", output), output
    assert re.search(r"Hardware read watchpoint 2: .*\n\nValue = 42\n", output), output
    assert re.search(r"Old value = 0 .*\nNew value = 7 .*\n.* in fill \(\)\n\$1 = 23\n", output), output
    assert vm.end()[0] == 1


def test_four_points_fit_and_a_fifth_does_not(debugged):
    vm = debugged("debuggee")
    output = vm.gdb("hbreak outer", "hbreak fill", "watch *(int *)&answer", "watch *(int *)&counter", "continue", "continue", "hbreak constant", "continue")
    assert "Hardware watchpoint 4: *(int *)&counter\n\nOld value = 0\nNew value = 2" in output
    assert "Could not insert hardware" in output, output
    vm.process.terminate()


# --- several CPUs ---


def test_each_cpu_is_a_thread_that_can_be_stepped_alone(debugged):
    vm = debugged("smp", "--cpus", "2", "--append", "cpus=2")
    output = vm.gdb("info threads", "break on_ipi", "continue", "print $_thread", "set scheduler-locking on", "stepi", "print $_thread", "thread 1",
                    "print $rip", "thread 2", "print $rip", "stepi", "thread 1", "print $rip", "delete", "set scheduler-locking off", "info threads")
    assert "Thread 2 (CPU 1, not started)" in output, output
    values = re.findall(r"^\$\d+ = (.*)", output, re.M)
    assert len(values) == 5 and values[0] == values[1] and values[2] == values[4], output
    assert output.count("Thread 2 (CPU 1") == 2
    assert vm.end()[0] == 1


# --- changing the guest ---


def test_memory_registers_and_code_can_be_changed(debugged, mode):
    vm = debugged("debuggee", env=mode)
    output = vm.gdb("break functions_call_each_other", "continue", "set *(int *)&answer = 7", "break half_way", "continue",
                    "set *(int *)(constant + 1) = 3", "print *(int *)(constant + 1)", "delete")
    assert "$1 = 3" in output
    status, said = vm.end()
    assert status == 1
    assert "# the answer is 7\n" in said and "# the sum is 2000\n# the sum is 6000\n" in said


def test_what_is_not_mapped_cannot_be_read(debugged):
    vm = debugged("debuggee")
    output = vm.gdb("break outer", "continue", "x/x 0xffffffff81000000", "x/x 0x100000", "print $cs = 1", "print $rip", "print $cr0", "print $efer")
    assert "Cannot access memory at address 0xffffffff81000000" in output
    assert re.search(r"0x100000.*:\t0x", output)
    assert "<outer" in output and "PG" in output and "LMA" in output
    assert vm.end()[0] == 1


# --- coming, going, ending ---


def test_the_guest_goes_on_after_a_detach_and_gdb_comes_back(debugged):
    vm = debugged("debuggee")
    assert "in outer ()" in vm.gdb("break outer", "continue", "detach")
    assert vm.end()[0] == 1
    vm = debugged("spin")
    assert "in spin ()" in vm.gdb("break spin", "continue")
    for _ in range(3):
        vm.process.stdout.peek(1)
        output = vm.gdb("print $rip", "stepi", "print $rip")
        assert len(re.findall(r"^\$\d = .* <spin", output, re.M)) == 2, output
    assert vm.process.poll() is None
    vm.process.terminate()
    assert vm.process.wait(TIMEOUT) == 143


def test_ctrl_c_stops_a_guest_that_spins_with_interrupts_off(debugged):
    vm = debugged("spin")
    gdb = subprocess.Popen(arguments(vm.socket, ["continue", "print $rip", "stepi", "print $eflags"], vm.symbols), stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert vm.process.stdout.read(8) == b"spinning"
        time.sleep(0.3)
        gdb.send_signal(signal.SIGINT)
        output = gdb.communicate(timeout=TIMEOUT)[0]
    finally:
        gdb.kill()
    assert "received signal SIGINT" in output and re.search(r"\$1 = .*<spin", output), output
    assert vm.process.poll() is None
    vm.process.terminate()


@pytest.mark.parametrize("code, status, said", [(guests.POWER_OFF, 0, "normally"), (guests.debug_exit(4), 9, "with code 011"),
                                                (guests.TRIPLE_FAULT, 3, "with code 03")])
def test_gdb_is_told_how_the_vm_ended(debugged, kernel, code, status, said):
    vm = debugged(kernel(code))
    assert f"{ENDED} {said}]" in vm.gdb("continue")
    assert vm.process.wait(TIMEOUT) == status


def test_a_signal_to_umbra_is_told_too(debugged, kernel):
    vm = debugged(kernel(guests.say("x") + guests.SPIN))
    gdb = subprocess.Popen(arguments(vm.socket, ["continue"], None), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert vm.process.stdout.read(1) == b"x"
    vm.process.terminate()
    assert "Program terminated with signal SIGTERM" in gdb.communicate(timeout=TIMEOUT)[0]
    assert vm.process.wait(TIMEOUT) == 143


def test_kill_ends_the_vm(debugged):
    vm = debugged("spin")
    vm.gdb("kill")
    assert vm.process.wait(TIMEOUT) == 0
    assert "the debugger ended the VM" in vm.process.stderr.read().decode()


def test_a_breakpoint_outlives_a_reset(debugged, kernel):
    vm = debugged(kernel(guests.say("boot ") + guests.RESET))
    output = vm.gdb("hbreak *0x100020", "continue", "stepi", "continue", "continue", "monitor info")
    assert len(re.findall(r"^Breakpoint 1, 0x0*100020", output, re.M)) == 3, output
    vm.process.terminate()
    assert vm.process.stdout.read().startswith(b"boot boot boot")


def test_monitor_resets_the_machine(debugged, kernel):
    vm = debugged(kernel(guests.say("boot ") + guests.SPIN))
    output = vm.gdb("hbreak *0x100027", "continue", "monitor reset", "maintenance flush register-cache", "continue", "info registers rip")
    assert len(re.findall(r"^Breakpoint 1, ", output, re.M)) == 2, output
    assert vm.process.poll() is None
    vm.process.terminate()


# --- where it listens ---


def test_on_tcp_it_listens_on_the_loopback(start, kernel):
    process = start("run", "--kernel", kernel(guests.POWER_OFF), "--gdb", "tcp:0,wait")
    line = process.stderr.readline().decode()
    port = re.fullmatch(r"umbra: gdb: target remote 127\.0\.0\.1:(\d+)\n", line)[1]
    done = subprocess.run(arguments(f"127.0.0.1:{port}", ["continue"], None), capture_output=True, text=True, timeout=TIMEOUT, check=False,
                          stdin=subprocess.DEVNULL)
    assert f"{ENDED} normally]" in done.stdout
    assert process.wait(TIMEOUT) == 0


def test_a_port_that_is_taken_is_told(umbra, kernel):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = umbra("run", "--kernel", kernel(guests.POWER_OFF), "--gdb", f"tcp:{port}")
    assert done.returncode == 1
    assert re.search(rf"cannot listen on port {port} of 127\.0\.0\.1: Address already in use", done.stderr)


def test_settings_come_from_json_too(umbra, kernel, tmp_path):
    (tmp_path / "vm.json").write_text('{"gdb": {"listen": "unix:here", "wait": false}}')
    done = umbra("run", "--config", "vm.json", "--kernel", kernel(guests.POWER_OFF))
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("value, why", [
    ("1234", "must be tcp:"), ("", "must be tcp:"), ("tcp:", "needs a port"), ("tcp:65536", "needs a port"), ("tcp:x", "needs a port"),
    ("tcp:localhost:1", "needs a numeric address"), ("tcp:[::1:1", "needs a numeric address"), ("tcp:1.2.3.4.5:1", "needs a numeric address"),
    ("unix:", "needs the socket's path"), ("tcp:1,now", "knows no setting 'now'"), ("tcp:1,wait,wait", "has 'wait' twice"),
    ("tcp:1,wait=1", "takes no value"),
])
def test_bad_settings_are_explained(umbra, kernel, value, why):
    done = umbra("run", "--kernel", kernel(guests.POWER_OFF), "--gdb", value)
    assert done.returncode == 2
    assert "--gdb" in done.stderr and why in done.stderr


def test_a_path_that_is_too_long_is_told(umbra, kernel):
    done = umbra("run", "--kernel", kernel(guests.POWER_OFF), "--gdb", "unix:" + "d" * 150)
    assert done.returncode == 1
    assert "at most 107 characters" in done.stderr
