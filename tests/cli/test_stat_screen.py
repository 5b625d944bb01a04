"""umbra stat and umbra screen: what a VM counts, and what its text screen shows."""
import json
import re
import signal
import time

import pytest

import guests
from conftest import TIMEOUT

ALTERNATE, NORMAL = b"\x1b[?1049h", b"\x1b[?1049l"


def table(umbra, *args):
    done = umbra("stat", "box", *args)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_table_has_cpus_exits_queues_and_counters(umbra, running, tmp_path):
    (tmp_path / "d.img").write_bytes(bytes(4096))
    running(guests.print_dots(5000) + guests.STOP, "--disk", "d.img")
    deadline = time.monotonic() + TIMEOUT
    while int(re.search(r"^PIO +(\d+)", text := table(umbra), re.M)[1]) < 10000:
        assert time.monotonic() < deadline
    assert re.search(r"^box: running, up \d+\.\d s, rates since it started\n", text)
    assert re.search(r"^vcpu0 +\d+\.\d% +\d+\.\d% +\d+\.\d% ", text, re.M)
    assert re.search(r"^engine \w+ +\d+", text, re.M)
    assert "queue" not in text  # none was ever used


def test_json_is_one_object_with_what_the_table_has(umbra, running):
    running(guests.SPIN)
    answer = json.loads(table(umbra, "--json"))
    assert answer["state"] == "running"
    cpu = answer["stats"]["vcpu0"]
    assert cpu["PIO"]["count"] == 2 and cpu["guest"]["count"] >= 1 and cpu["guest"]["ns"] > 0
    assert answer["stats"]["seconds"] > 0 and answer["stats"]["name"] == "box"


def test_a_guest_that_runs_spends_time_in_the_guest_and_one_that_halts_or_stands_does_not(umbra, running):
    running(guests.SPIN)

    def guest_ns():
        return json.loads(table(umbra, "--json"))["stats"]["vcpu0"]["guest"]["ns"]

    first = guest_ns()
    assert guest_ns() > first
    assert umbra("pause", "box").returncode == 0
    first = guest_ns()
    assert guest_ns() == first


def test_watch_into_a_pipe_is_table_after_table(start, running):
    running(guests.SPIN)
    watch = start("stat", "box", "--watch=0.1")
    seen = b""
    while seen.count(b"rates of the last") < 2:
        seen += watch.stdout.read1(65536)
    assert b"\x1b" not in seen and seen.count(b"rates since it started") == 1
    watch.send_signal(signal.SIGINT)
    assert watch.wait(TIMEOUT) == 0


def test_watch_as_json_is_a_line_for_each_look(start, running):
    running(guests.SPIN)
    watch = start("stat", "box", "--json", "--watch=0.05")
    seconds = [json.loads(watch.stdout.readline())["stats"]["seconds"] for _ in range(4)]
    assert seconds == sorted(seconds)
    watch.terminate()
    assert watch.wait(TIMEOUT) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_watch_on_a_terminal_rewrites_a_screen_of_its_own_and_gives_the_terminal_back(running, terminal, number):
    running(guests.SPIN)
    t = terminal("stat", "box", "--watch=0.1")
    t.expect(ALTERNATE)
    t.expect(b"rates since it started")
    first = t.expect(b"rates of the last")
    assert b"\x1b[H" in first and b"vcpu0" in first
    t.process.send_signal(number)
    assert t.wait() == 0
    assert t.output.endswith(b"\x1b[?25h" + NORMAL)
    assert t.is_as_before()


def test_watch_that_is_stopped_gives_the_terminal_back_meanwhile(running, terminal):
    running(guests.SPIN)
    t = terminal("stat", "box", "--watch=0.1")
    t.expect(b"rates of the last")
    t.process.send_signal(signal.SIGTSTP)
    t.expect(NORMAL)
    t.process.send_signal(signal.SIGCONT)
    t.expect(ALTERNATE)
    t.expect(b"rates of the last")


def test_watch_ends_with_the_vm(umbra, running, terminal):
    running(guests.SPIN)
    t = terminal("stat", "box", "--watch=0.1")
    t.expect(b"rates of the last")
    assert umbra("kill", "box").returncode == 0
    assert t.wait() == 0
    assert NORMAL + b"umbra: the VM 'box' has ended" in t.output


def test_stat_that_cannot_be_written_fails(umbra, running):
    running(guests.SPIN)
    for args in (["stat", "box"], ["stat", "box", "--json"], ["list"], ["screen", "box"]):
        with open("/dev/full", "w", encoding="ascii") as full:
            assert umbra(*args, stdout=full).returncode == 1, args


# --- screen ---


def put(row, column, text, attribute=7):
    """Two cells at a time."""
    cells = b"".join(bytes([c, attribute]) for c in text)
    assert len(cells) % 4 == 0
    return b"".join(guests.poke32(0xB8000 + 160 * row + 2 * column + i, int.from_bytes(cells[i:i + 4], "little")) for i in range(0, len(cells), 4))


def screen(umbra, *args):
    done = umbra("screen", "box", *args)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.split("\n")
    assert len(lines) == 26 and lines[25] == ""
    return lines


def test_the_screen_is_shown_as_the_kernel_wrote_it(umbra, start, kernel):
    code = put(0, 0, b"Hello, screen!  ") + put(1, 2, "╔══╗äöüß".encode("cp437")) + put(24, 76, b"last") + put(3, 0, bytes([1, 0xFE]))
    process = start("run", "--name", "box", "--memory", "4M", "--kernel", kernel(code + guests.say("up") + guests.STOP))
    assert process.stdout.read(2) == b"up"
    lines = screen(umbra)
    assert lines[0] == "Hello, screen!" and lines[1] == "  ╔══╗äöüß" and lines[3] == "☺■"
    assert lines[24] == " " * 76 + "last" and lines[2] == ""


def test_colours_become_those_of_a_terminal(umbra, start, kernel):
    code = put(0, 0, b"rd", 0x04) + put(0, 2, b"yb", 0x1E) + put(0, 4, b"bl", 0xF0)
    process = start("run", "--name", "box", "--memory", "4M", "--kernel", kernel(code + guests.say("up") + guests.STOP))
    assert process.stdout.read(2) == b"up"
    line = screen(umbra, "--color")[0]
    assert line.startswith("\x1b[0;31;40mrd\x1b[0;93;44myb\x1b[0;5;30;47mbl\x1b[")
    assert line.endswith("\x1b[0m")
    assert "\x1b" not in screen(umbra)[0]
