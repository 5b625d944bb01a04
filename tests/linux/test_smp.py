"""Linux on several CPUs: all come up, the topology is what was asked for, and parallel work has the same sums every time."""
import os
import re
import subprocess

import pytest

import programs
import vm

pytestmark = pytest.mark.umbra_only
# Half of the guest's CPUs at the least are at work: pipes, sorting and hashing in processes, and a program of threads.
WORK = ("cd /tmp; (seq 20000 | sha256sum >out.1)& (seq 10000 | sort -r | md5sum >out.2)& "
        "(seq 20000 | awk '{s = (s * 31 + $1) % 1000003} END {print s}' >out.3)& (/tests/parallel64 >out.4)& wait; "
        "cat out.1 out.2 out.3 out.4; rm out.*; cd - >/dev/null")
ROUNDS = 10


def field(guest, name):
    return re.findall(rf"^{name}\s*: (\d+)$", guest.run("cat /proc/cpuinfo"), re.M)


def work(guest, rounds):
    """The output of each round, which must not differ."""
    first = guest.run(WORK, 5 * vm.TIMEOUT)
    for n in range(1, rounds):
        assert guest.run(WORK, 5 * vm.TIMEOUT) == first, f"round {n + 1}"
    return first


@pytest.fixture(name="two", scope="module")
def two_cpus(programs_initrd):
    with vm.Vm(initrd=programs_initrd, extra=("--cpus", "2")) as guest:
        guest.prompt()
        yield guest


def test_both_cpus_come_up(two):
    assert two.run("nproc") == "2\n"
    assert field(two, "cpu cores") == ["2", "2"] and field(two, "apicid") == ["0", "1"]
    log = two.run("dmesg")
    assert "Brought up 1 node, 2 CPUs" in log
    assert not re.search(r"BUG|WARNING|stall|lockup|Tainted|unstable", log)


def test_both_cpus_take_interrupts_and_each_other_s_ipis(two):
    two.run("taskset 1 sh -c 'seq 20000 | sort | md5sum'; taskset 2 sh -c 'seq 20000 | sort | md5sum'")
    counts = two.run("cat /proc/interrupts")
    for kind in ("LOC", "RES", "CAL"):
        assert all(int(n) > 0 for n in re.search(rf"^ *{kind}: +(\d+) +(\d+)", counts, re.M).groups()), counts


def test_parallel_work_is_the_same_ten_times(two):
    output = work(two, ROUNDS)
    host = subprocess.run([programs.path("parallel", 64)], capture_output=True, text=True, timeout=120, check=True).stdout
    assert output.endswith(host)


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("name", ["threads", "parallel", "signals", "memory", "processes", "jit"])
def test_programs_that_check_themselves_find_nothing_on_two_cpus(two, name, bits):
    status, output = two.status_and_output(f"/tests/{name}{bits}", 4 * vm.TIMEOUT)
    assert status == 0, output


def test_a_cpu_goes_and_comes_back(two):
    two.run("echo 0 >/sys/devices/system/cpu/cpu1/online")
    assert two.run("nproc") == "1\n"
    two.run("echo 1 >/sys/devices/system/cpu/cpu1/online")
    assert two.run("nproc") == "2\n"
    assert two.run("taskset 2 echo here") == "here\n"


def test_sockets_cores_and_threads_are_what_was_asked_for(programs_initrd):
    with vm.Vm(initrd=programs_initrd, extra=("--cpus", "6,sockets=2,cores=3")) as guest:
        guest.prompt()
        assert field(guest, "apicid") == ["0", "1", "2", "4", "5", "6"]
        assert field(guest, "physical id") == ["0", "0", "0", "1", "1", "1"]
        assert field(guest, "core id") == ["0", "1", "2"] * 2
        assert field(guest, "cpu cores") == ["3"] * 6 and field(guest, "siblings") == ["3"] * 6
    with vm.Vm(initrd=programs_initrd, extra=("--cpus", "4,threads=2")) as guest:
        guest.prompt()
        assert field(guest, "core id") == ["0", "0", "1", "1"]
        assert field(guest, "cpu cores") == ["2"] * 4 and field(guest, "siblings") == ["4"] * 4
        assert guest.run("cat /sys/devices/system/cpu/cpu2/topology/thread_siblings_list") == "2-3\n"
        work(guest, 2)


def test_a_reboot_starts_all_cpus_again():
    with vm.Vm(extra=("--cpus", "2")) as guest:
        for _ in range(3):
            guest.expect(vm.BANNER, vm.BOOT_TIMEOUT)
            guest.prompt()
            assert guest.run("nproc") == "2\n"
            guest.send("reboot\r")
        guest.expect(vm.BANNER, vm.BOOT_TIMEOUT)
        guest.prompt()
        guest.send("poweroff\r")
        assert guest.wait() == 0


def test_cpus_run_where_they_are_pinned(programs_initrd):
    allowed = sorted(os.sched_getaffinity(0))
    first, last = allowed[0], allowed[-1]
    with vm.Vm(initrd=programs_initrd, extra=("--cpus", "2", "--pin", f"0:{first},1:{last}")) as guest:
        guest.prompt()
        threads = {}
        for task in os.listdir(f"/proc/{guest.process.pid}/task"):
            with open(f"/proc/{guest.process.pid}/task/{task}/comm", encoding="ascii") as f:
                threads[f.read().strip()] = os.sched_getaffinity(int(task))
        assert threads["vcpu0"] == {first} and threads["vcpu1"] == {last}
        assert guest.run("nproc") == "2\n"


@pytest.mark.soak
def test_parallel_work_is_the_same_for_long(two):
    work(two, 200)
