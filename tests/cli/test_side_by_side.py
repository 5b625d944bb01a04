"""What one umbra does to others: nothing. Neither a VM beside it nor its parent notices more than its end."""
import ctypes
import json
import os
import re
import subprocess

import guests
from conftest import TIMEOUT

PR_SET_CHILD_SUBREAPER = 36


def test_two_vms_at_once_do_not_share_anything(start, kernel, tmp_path):
    code = guests.say("ready ") + guests.ECHO
    first, second = (start("run", "--kernel", kernel(code), f"--stats={name}.json", "--name", name, stdin=subprocess.PIPE)
                     for name in ("first", "second"))
    for process in (first, second):
        assert process.stdout.read(6) == b"ready "
    first.stdin.write(b"111")
    second.stdin.write(b"22")
    first.stdin.flush()
    second.stdin.flush()
    assert first.stdout.read(3) == b"111"
    assert second.stdout.read(2) == b"22"
    first.stdin.write(b"q")
    first.stdin.close()
    assert first.wait(TIMEOUT) == 0
    assert second.poll() is None
    second.stdin.write(b"2q")
    second.stdin.close()
    assert second.stdout.read() == b"2q"
    assert second.wait(TIMEOUT) == 0
    names = [json.loads((tmp_path / f"{name}.json").read_text())["name"] for name in ("first", "second")]
    assert names == ["first", "second"]


def test_names_differ_by_themselves(start, kernel):
    code = kernel(guests.say("up") + guests.SPIN)
    processes = [start("run", "--kernel", code) for _ in range(2)]
    for process in processes:
        assert process.stdout.read(2) == b"up"
        with open(f"/proc/{process.pid}/comm", encoding="ascii") as f:
            assert f.read() == f"umbra-{process.pid}\n"


def test_no_process_is_left_behind(umbra, kernel):
    """Orphans become children of this process, which has none of its own here."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        for args in (["probe"], ["run", "--kernel", "/nonexistent"], ["run", "--kernel", kernel(guests.POWER_OFF)],
                     ["run", "--kernel", kernel(guests.TRIPLE_FAULT)]):
            umbra(*args)
            try:
                left = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                left = None
            assert left is None, args
    finally:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0)


def test_every_setting_that_help_names_is_taken_as_help_shows_it(umbra, tmp_path):
    """What fails each time is the kernel, which does not exist: the parser took everything."""
    (tmp_path / "vm.json").write_text("{}")
    samples = {"name": "box", "engine": "soft", "cpus": "1", "pin": "0", "memory": "64M", "code-cache": "64M", "kernel": "/nonexistent", "initrd": "/none",
               "append": "quiet", "console": "none", "disk": "d.img,ro", "net": "user", "rng": "on,rate=4K", "queue-work": "inline",
               "fw-cfg": "opt/a=vm.json", "gdb": "unix:g.sock",
               "stats": "s.json", "config": "vm.json"}
    found = re.findall(r"^  --([a-z0-9-]+)(\[=\S+\]| \S+)?(?:\s|$)", umbra("run", "--help").stdout, re.MULTILINE)
    assert len(found) >= 16
    for name, value in found:
        forms = [[f"--{name}"]] if not value or value.startswith("[") else [[f"--{name}", samples[name]]]
        forms += [[f"--{name}={samples[name]}"]] if value else []
        for form in forms:
            done = umbra("run", "--kernel", "/nonexistent", *form)
            assert done.returncode == 1 and "kernel /nonexistent" in done.stderr, form
