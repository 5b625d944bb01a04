"""The default guest's shell: what a user does at the prompt, and work whose results are known."""
import hashlib
import random
import re
import time

import vm


def test_work_in_the_guest_has_the_known_checksums(guest):
    # awk writes in large pieces, where seq writes every number by itself.
    numbers = "".join(f"{i}\n" for i in range(1, 200001)).encode()
    guest.run("awk 'BEGIN { for (i = 1; i <= 200000; i++) print i }' >/tmp/n")
    assert guest.run("sha256sum /tmp/n").split()[0] == hashlib.sha256(numbers).hexdigest()
    assert guest.run("md5sum /tmp/n").split()[0] == hashlib.md5(numbers).hexdigest()
    assert guest.run("sha512sum /tmp/n; rm /tmp/n").split()[0] == hashlib.sha512(numbers).hexdigest()
    zeros = b"\0" * (4 << 20)
    assert guest.run("dd if=/dev/zero bs=64k count=64 2>/dev/null | sha1sum").split()[0] == hashlib.sha1(zeros).hexdigest()


def test_compression_round_trips(guest):
    wanted = hashlib.sha256("".join(f"{i * 7919 % 100003}\n" for i in range(1, 50001)).encode()).hexdigest()
    guest.run("seq 1 50000 | awk '{ print $1 * 7919 % 100003 }' >/tmp/in")
    # busybox 1.35 has no compressor beside gzip and bzip2, which is what these know how to undo.
    for pack, unpack in (("gzip", "gunzip"), ("bzip2", "bunzip2")):
        output = guest.run(f"{pack} </tmp/in >/tmp/packed && {unpack} </tmp/packed | sha256sum; wc -c </tmp/packed").split()
        assert output[0] == wanted, pack
        assert int(output[2]) < 200000, pack
    guest.run("rm /tmp/in /tmp/packed")


def test_text_tools_agree_with_python(guest):
    numbers = [i * 48271 % 65537 for i in range(1, 5001)]
    guest.run("seq 1 5000 | awk '{ print $1 * 48271 % 65537 }' >/tmp/n")
    wanted = "".join(f"{n}\n" for n in sorted(set(numbers)))
    assert guest.run("sort -n -u /tmp/n | sha256sum").split()[0] == hashlib.sha256(wanted.encode()).hexdigest()
    assert guest.run("awk '{ s += $1 } END { print s }' /tmp/n") == f"{sum(numbers)}\n"
    assert guest.run("grep -c 7 /tmp/n") == f"{sum('7' in str(n) for n in numbers)}\n"
    guest.run("rm /tmp/n")


def test_files_and_folders_are_found_again(guest):
    guest.run("mkdir -p /tmp/t && cd /tmp/t && for i in $(seq 100); do mkdir d$i; echo $i >d$i/f; done; cd - >/dev/null")
    assert guest.run("find /tmp/t -type f | wc -l") == "100\n"
    assert guest.run("find /tmp/t -name f -exec cat {} + | sort -n | tail -n 1") == "100\n"
    assert guest.run("tar -C /tmp -cf - t | tar -tf - | wc -l") == "201\n"
    guest.run("rm -r /tmp/t")


def test_the_shell_edits_its_line(guest):
    guest.send("echo wrng\x1b[D\x1b[D\x1b[Do\r")  # left three times, then the missing letter
    guest.expect(r"\nworng\r")
    guest.prompt()
    guest.send(f"cho ab\x7fc{vm.CTRL_A}e\x05d\r")  # backspace, to the start, to the end
    guest.expect(r"\nacd\r")
    guest.prompt()
    guest.send("echo first-command\r")
    guest.expect(r"\nfirst-command\r")
    guest.prompt()
    guest.send("\x1b[A\r")  # up: the command before
    guest.expect(r"\nfirst-command\r")
    guest.prompt()
    guest.send("echo /etc/initt\t\r")  # completion
    guest.expect(r"\n/etc/inittab ?\r")
    guest.prompt()


def test_control_c_interrupts(guest):
    guest.send("sh -c 'echo rea\"\"dy; exec sleep 1000'\r")
    guest.expect(r"ready\r")
    guest.send("\x03")
    guest.prompt()
    assert guest.run("true; echo alive") == "alive\n"


def test_control_z_stops_and_fg_resumes(guest):
    guest.send("sh -c 'echo rea\"\"dy; exec cat'\r")
    guest.expect(r"ready\r")
    guest.send("one\r")
    guest.expect(r"one\r+\none\r")
    guest.send("\x1a")
    guest.expect("Stopped")
    guest.prompt()
    assert "Stopped" in guest.run("jobs")
    guest.send("fg\r")
    guest.expect(r"exec cat[\"']\r")
    guest.send("two\r")
    guest.expect(r"two\r+\ntwo\r")
    guest.send("\x04")
    guest.prompt()
    assert guest.run("jobs") == ""
    assert guest.run("(sleep 0.1 & wait; echo waited)") == "waited\n"


def test_the_shell_owns_its_terminal(guest):
    assert guest.run("tty") == "/dev/ttyS0\n"


def test_the_window_has_the_terminals_size(guest):
    assert guest.run("stty size") == f"{guest.rows} {guest.columns}\n"
    before = guest.rows, guest.columns
    guest.rows, guest.columns = 33, 99
    try:
        guest.send("resize\r")
        guest.prompt()
        assert guest.run("stty size") == "33 99\n"
    finally:
        guest.rows, guest.columns = before
        guest.send("resize\r")
        guest.prompt()


def test_bytes_pass_the_console_unchanged(guest):
    rng = random.Random(7)
    data = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(3000))
    guest.send("stty -echo; echo rea''dy; head -c 3000 | md5sum; stty echo\r")
    guest.expect(r"ready\r")
    guest.send(data)
    # Lines stay below the terminal's 4096 characters; Ctrl-d hands over the unfinished one.
    guest.send("\x04")
    match = guest.expect(r"([0-9a-f]{32})  -")
    assert match.group(1) == hashlib.md5(data.encode()).hexdigest()
    guest.prompt()


def test_much_output_arrives_whole(guest):
    output = guest.run("seq 1 20000")
    assert output == "".join(f"{i}\n" for i in range(1, 20001))


def test_the_date_is_the_hosts(guest):
    before = time.time()
    seconds = int(guest.run("date +%s"))
    assert before - 30 <= seconds <= time.time() + 30


def test_sleep_takes_its_time(guest):
    # Two clocks of the guest's agree with each other; how long the host took is not asked.
    output = guest.run("cat /proc/uptime; date +%s; sleep 2; date +%s; cat /proc/uptime").split("\n")
    uptime = float(output[3].split()[0]) - float(output[0].split()[0])
    assert uptime >= 2
    assert abs(int(output[2]) - int(output[1]) - uptime) < 2


def test_the_kernel_has_nothing_to_complain_about(guest):
    log = guest.run("dmesg")
    for line in log.split("\n"):
        assert not re.search(r"BUG:|WARNING:|Oops|Call Trace|rcu.*stall|soft lockup|Spurious|bad irq|nobody cared", line), line


def test_memory_is_what_was_asked_for(guest):
    kilobytes = int(re.search(r"MemTotal: +(\d+)", guest.run("cat /proc/meminfo")).group(1))
    assert 430 << 10 < kilobytes <= 512 << 10


def test_fork_storms_leave_nothing_behind(guest):
    processes = "ps | grep -vc ']$'"  # the kernel's own threads come and go
    before = int(guest.run(processes))
    assert guest.run("(i=0; while [ $i -lt 300 ]; do /bin/true & i=$((i+1)); done; wait; echo $i)") == "300\n"
    guest.run("(for i in $(seq 20); do (seq 1000 | sort -n | tail -n 1 >/dev/null) & done; wait)")
    assert int(guest.run(processes)) <= before


def test_the_command_line_is_the_given_one(guest):
    assert guest.run("cat /proc/cmdline").strip() == vm.APPEND
