"""Running VMs by their names: what the commands do to them, and what they say when they cannot."""
import json
import os
import re
import select
import signal
import stat
import subprocess
import time

import pytest

import guests
from conftest import BINARY, TIMEOUT, complaints

ON_A_VM = ["pause", "resume", "stop", "reset", "nmi", "kill", "console", "screen", "stat"]


def ok(done):
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def fails(done, *words):
    assert (done.returncode, done.stdout) == (1, ""), done
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr
    return done.stderr


def comes(process, seconds=5):
    return bool(select.select([process.stdout], [], [], seconds)[0])


def state(umbra, name="box"):
    return {vm["name"]: vm["state"] for vm in json.loads(ok(umbra("list", "--json")))}[name]


# --- list ---


def test_list_is_empty_when_nothing_runs(umbra):
    assert ok(umbra("list")).split() == ["NAME", "PID", "STATE", "ENGINE", "CPUS", "MEMORY", "UPTIME"]
    assert json.loads(ok(umbra("list", "--json"))) == []


def test_list_shows_what_runs_sorted_by_name(umbra, running):
    second, first = running(guests.SPIN, name="web.2"), running(guests.STOP, name="db-1")
    rows = [line.split() for line in ok(umbra("list")).splitlines()[1:]]
    assert [row[:6] for row in rows] == [["db-1", str(first.pid), "running", "soft", "1", "4M"], ["web.2", str(second.pid), "running", "soft", "1", "4M"]]
    assert re.fullmatch(r"0:0\d:\d\d", rows[0][6])
    vm = json.loads(ok(umbra("list", "--json")))[0]
    assert (vm["name"], vm["pid"], vm["memory"], vm["cpus"], vm["engine"]) == ("db-1", first.pid, 4 << 20, 1, "soft")
    assert vm["uptime"] > 0


def test_a_vm_without_a_name_has_one(umbra, start, kernel):
    process = start("run", "--kernel", kernel(guests.say("up") + guests.SPIN))
    assert process.stdout.read(2) == b"up"
    assert state(umbra, f"umbra-{process.pid}") == "running"


def test_a_vm_that_stands_still_is_listed_without_an_answer(umbra, running):
    process = running(guests.SPIN)
    process.send_signal(signal.SIGSTOP)
    assert ok(umbra("list")).splitlines()[1].split() == ["box", str(process.pid), "no", "answer"]
    fails(umbra("pause", "box"), "'box'", str(process.pid), "does not answer")
    process.send_signal(signal.SIGCONT)


# --- pause and resume ---


def drain(process):
    """All that comes until nothing does for a while."""
    os.set_blocking(process.stdout.fileno(), False)
    quiet, deadline = 0, time.monotonic() + TIMEOUT
    while quiet < 5:
        assert time.monotonic() < deadline
        quiet = 0 if process.stdout.read() else quiet + 1
        time.sleep(0.05)


def test_a_paused_guest_does_nothing_until_it_is_resumed(umbra, running):
    process = running(guests.PRINT_FOR_EVER)
    ok(umbra("pause", "box"))
    assert state(umbra) == "paused"
    drain(process)
    assert not comes(process, 0.5)
    ok(umbra("pause", "box"))
    ok(umbra("resume", "box"))
    assert comes(process, TIMEOUT)
    assert state(umbra) == "running"
    ok(umbra("resume", "box"))
    assert state(umbra) == "running"


def test_a_paused_vm_stays_paused_over_a_reset(umbra, running):
    process = running(guests.STOP)
    ok(umbra("pause", "box"))
    ok(umbra("reset", "box"))
    assert state(umbra) == "paused"
    assert not comes(process, 0.3)
    ok(umbra("resume", "box"))
    assert process.stdout.read(2) == b"up"


def test_a_paused_vm_ends_by_a_signal_and_by_kill(umbra, running):
    for end in (lambda p: p.terminate(), lambda p: ok(umbra("kill", "box"))):
        process = running(guests.PRINT_FOR_EVER, stdout=subprocess.PIPE)
        ok(umbra("pause", "box"))
        end(process)
        assert process.wait(TIMEOUT) in (0, 143)


# --- reset, nmi ---


@pytest.mark.parametrize("more", [[], ["--no-reboot"]])
def test_reset_starts_the_guest_again(umbra, running, more):
    process = running(guests.SPIN, *more)
    for _ in range(3):
        ok(umbra("reset", "box"))
        assert process.stdout.read(2) == b"up"
    assert process.poll() is None


def test_nmi_reaches_a_guest_that_masks_interrupts(umbra, running):
    process = running(b"\x0f\x01\x1d\x00\x00\x20\x00" + guests.STOP)  # an empty IDT: the NMI is its end
    assert process.poll() is None
    ok(umbra("nmi", "box"))
    assert process.wait(TIMEOUT) == 3


# --- stop, kill ---


def test_stop_presses_the_power_button(umbra, running):
    process = running(guests.POWER_BUTTON)
    ok(umbra("stop", "box", "--timeout", "60"))
    assert (process.wait(TIMEOUT), complaints(process.stderr.read().decode())) == (0, "")


def test_stop_waits_for_a_guest_that_does_not_listen_yet(umbra, running):
    late = guests.print_dots(3000000) + guests.POWER_BUTTON
    process = running(late, stdout=subprocess.PIPE)
    with open(os.devnull, "wb") as null:
        reader = subprocess.Popen(["cat"], stdin=process.stdout, stdout=null)
        ok(umbra("stop", "box", "--timeout=60"))
        assert process.wait(TIMEOUT) == 0
        reader.wait()


@pytest.mark.parametrize("code, why", [(guests.SPIN, "did not listen to its power button"),
                                       (b"\x66\xb8\x00\x01\x66\xba\x02\x06\x66\xef" + guests.STOP, "saw its power button, but did not switch off")])
def test_stop_ends_a_guest_that_does_not_answer_and_says_so(umbra, running, code, why):
    process = running(code)
    done = umbra("stop", "box", "--timeout", "0.2")
    assert (done.returncode, done.stdout) == (0, "")
    assert f"'box' {why} within 0.2 s: the VM is ended" in done.stderr
    assert process.wait(TIMEOUT) == 0
    assert b"ended by a request on its control socket" in process.stderr.read()


def test_stop_force_does_not_ask_the_guest(umbra, running):
    process = running(guests.SPIN)
    ok(umbra("stop", "--force", "box"))
    assert process.wait(TIMEOUT) == 0


def test_stop_does_not_end_a_paused_vm_that_cannot_see_the_button(umbra, running):
    process = running(guests.POWER_BUTTON)
    ok(umbra("pause", "box"))
    fails(umbra("stop", "box"), "paused", "resume")
    assert process.poll() is None
    ok(umbra("resume", "box"))
    ok(umbra("stop", "box"))


@pytest.mark.parametrize("code", [guests.SPIN, guests.STOP, guests.RESET, guests.PRINT_FOR_EVER], ids=["spin", "halt", "reset", "print"])
def test_kill_ends_every_guest_and_returns_when_it_is_gone(umbra, running, runtime_dir, code):
    process = running(code, "--console", "tty")
    ok(umbra("kill", "box"))
    assert os.listdir(f"{runtime_dir}/umbra") == []
    assert process.wait(TIMEOUT) == 0


def test_kill_ends_a_process_that_stands_still(umbra, running, runtime_dir):
    process = running(guests.SPIN)
    process.send_signal(signal.SIGSTOP)
    done = umbra("kill", "box")
    assert done.returncode == 0
    assert f"process {process.pid} is killed" in done.stderr
    assert process.wait(TIMEOUT) == -signal.SIGKILL
    ok(umbra("list"))
    assert os.listdir(f"{runtime_dir}/umbra") == []


# --- what cannot be done ---


@pytest.mark.parametrize("command", ON_A_VM)
def test_a_vm_that_is_not_there_is_named_with_the_nearest_or_with_what_runs(umbra, running, command):
    fails(umbra(command, "box"), "no running VM named 'box'", "no other")
    running(guests.SPIN, name="builder")
    fails(umbra(command, "bilder"), "no running VM named 'bilder'", "did you mean builder?")
    running(guests.SPIN, name="web")
    fails(umbra(command, "elsewhere"), "no running VM named 'elsewhere'", "there are builder, web")


@pytest.mark.parametrize("command", ON_A_VM)
def test_command_lines_that_are_wrong_are_status_2(umbra, command):
    for args, word in (([], "NAME"), (["a", "b"], "'b'"), (["a", "--nonsense"], "--nonsense"), (["a/b"], "'a/b'"), ([""], "empty"),
                       (["../x"], "'../x'"), (["x" * 100], "64")):
        done = umbra(command, *args)
        assert (done.returncode, done.stdout) == (2, ""), args
        assert word in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("args, word", [(["stop", "box", "--timeout"], "SECONDS"), (["stop", "box", "--timeout", "soon"], "'soon'"),
                                        (["stop", "box", "--timeout=-1"], "'-1'"), (["stop", "box", "--timeout=nan"], "'nan'"),
                                        (["stop", "box", "--force=1"], "no value"), (["stat", "box", "--watch=0"], "--watch"),
                                        (["stat", "box", "--watch=x"], "'x'"), (["list", "box"], "'box'"), (["paus"], "umbra pause"),
                                        (["zzzz"], "--help")])
def test_values_that_are_wrong_are_status_2(umbra, args, word):
    done = umbra(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert word in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["list", *ON_A_VM])
def test_every_command_has_help(umbra, command):
    text = ok(umbra(command, "--help"))
    assert text.startswith(f"umbra {command}")
    assert ok(umbra(command, "-h")) == text


def test_a_second_vm_of_the_same_name_is_refused_while_the_first_lives(umbra, running, kernel, tmp_path):
    first = running(guests.SPIN)
    code = kernel(guests.POWER_OFF)
    fails(umbra("run", "--name", "box", "--kernel", code, "--console", "file:untouched"), "'box' runs already", str(first.pid), "--name")
    assert not (tmp_path / "untouched").exists()
    first.terminate()
    first.wait(TIMEOUT)
    ok(umbra("run", "--name", "box", "--kernel", code))


def test_of_many_that_start_at_once_with_one_name_one_runs(kernel):
    code = kernel(guests.say("up") + guests.STOP)
    processes = [subprocess.Popen([BINARY, "run", "--name", "same", "--memory", "4M", "--kernel", code], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(8)]
    try:
        deadline = time.monotonic() + TIMEOUT
        while sum(p.poll() is None for p in processes) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        alive = [p for p in processes if p.poll() is None]
        assert len(alive) == 1 and alive[0].stdout.read(2) == b"up"
        for p in processes:
            if p is not alive[0]:
                assert p.returncode == 1 and b"runs already" in p.stderr.read()
    finally:
        for p in processes:
            p.kill()
            p.communicate()


# --- the folder ---


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_the_socket_and_its_folder_are_the_users_alone(running, runtime_dir):
    os.umask(0)
    try:
        running(guests.SPIN)
    finally:
        os.umask(0o022)
    assert mode(f"{runtime_dir}/umbra") == 0o700
    assert mode(f"{runtime_dir}/umbra/box.sock") == 0o600
    assert mode(f"{runtime_dir}/umbra/box.lock") == 0o600


def test_a_folder_that_is_open_to_others_is_refused(umbra, kernel, tmp_path):
    (tmp_path / "umbra").mkdir(mode=0o755)
    env = dict(os.environ, XDG_RUNTIME_DIR=str(tmp_path))
    for args in (["list"], ["pause", "box"], ["run", "--name", "box", "--kernel", kernel(guests.POWER_OFF)]):
        fails(umbra(*args, env=env), str(tmp_path / "umbra"), "chmod 700")
    (tmp_path / "umbra").chmod(0o700)
    ok(umbra("list", env=env))


def test_a_folder_of_another_user_is_refused(umbra, tmp_path):
    if os.geteuid():
        pytest.skip("only root can make one")
    (tmp_path / "umbra").mkdir(mode=0o700)
    os.chown(tmp_path / "umbra", 12345, 12345)
    fails(umbra("list", env=dict(os.environ, XDG_RUNTIME_DIR=str(tmp_path))), "user 12345", "XDG_RUNTIME_DIR")


def test_a_folder_that_is_a_link_is_refused(umbra, tmp_path):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "umbra").symlink_to(tmp_path / "real")
    fails(umbra("list", env=dict(os.environ, XDG_RUNTIME_DIR=str(tmp_path))), str(tmp_path / "umbra"))


def has_no_control_socket(done, *words):
    """It ran, with one sentence about that."""
    assert done.returncode == 0 and done.stdout == "up", done.stderr
    warnings = [line for line in done.stderr.splitlines() if "control socket" in line]
    assert len(warnings) == 1 and all(word in warnings[0] for word in ("this VM has no control socket", *words))


def test_a_vm_that_nobody_named_runs_where_there_can_be_no_private_folder(umbra, kernel, tmp_path):
    env = dict(os.environ, XDG_RUNTIME_DIR=str(tmp_path))
    run = ["run", "--kernel", kernel(guests.say("up") + guests.POWER_OFF)]
    (tmp_path / "umbra").write_text("a file")
    has_no_control_socket(umbra(*run, env=env), str(tmp_path / "umbra"), "Not a directory")
    fails(umbra(*run, "--name", "box", env=env), str(tmp_path / "umbra"), "Not a directory")
    (tmp_path / "vm.json").write_text('{"name": "box"}')
    fails(umbra(*run, "--config", str(tmp_path / "vm.json"), env=env), str(tmp_path / "umbra"), "Not a directory")
    (tmp_path / "umbra").unlink()
    (tmp_path / "umbra").mkdir(mode=0o755)
    has_no_control_socket(umbra(*run, env=env), str(tmp_path / "umbra"), "chmod 700")
    assert not list((tmp_path / "umbra").iterdir())


def test_a_vm_that_nobody_named_runs_where_the_folder_is_read_only(kernel, tmp_path):
    (tmp_path / "umbra").mkdir(mode=0o700)
    if subprocess.run(["unshare", "-rm", "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("this host gives no namespaces for users and mounts")
    script = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,bind,ro {tmp_path} && exec \"$@\""
    run = ["unshare", "-rm", "sh", "-c", script, "sh", BINARY, "run", "--kernel", kernel(guests.say("up") + guests.POWER_OFF)]
    more = {"env": dict(os.environ, XDG_RUNTIME_DIR=str(tmp_path)), "stdin": subprocess.DEVNULL, "capture_output": True, "text": True,
            "timeout": TIMEOUT, "check": False}
    has_no_control_socket(subprocess.run(run, **more), "Read-only")
    fails(subprocess.run([*run, "--name", "box"], **more), "Read-only")


@pytest.mark.parametrize("value", [None, "", "relative", "/nonexistent/for/umbra"])
def test_without_a_runtime_folder_of_the_users_own_tmp_has_one(umbra, kernel, value):
    env = {k: v for k, v in os.environ.items() if k != "XDG_RUNTIME_DIR"}
    if value is not None:
        env["XDG_RUNTIME_DIR"] = value
    name = f"test-{os.getpid()}"
    process = subprocess.Popen([BINARY, "run", "--name", name, "--kernel", kernel(guests.say("up") + guests.SPIN)], env=env,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert process.stdout.read(2) == b"up"
        folder = f"/tmp/umbra-{os.geteuid()}"
        assert mode(folder) == 0o700 and mode(f"{folder}/{name}.sock") == 0o600
        assert f"\n{name} " in ok(umbra("list", env=env))
        ok(umbra("kill", name, env=env))
    finally:
        process.kill()
        process.communicate()


def test_a_long_runtime_folder_is_no_obstacle(umbra, kernel, tmp_path):
    """Longer than the address of a socket can be."""
    folder = tmp_path / ("x" * 120)
    folder.mkdir(mode=0o700)
    env = dict(os.environ, XDG_RUNTIME_DIR=str(folder))
    process = subprocess.Popen([BINARY, "run", "--name", "n" * 64, "--kernel", kernel(guests.say("up") + guests.SPIN)], env=env,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert process.stdout.read(2) == b"up"
        ok(umbra("kill", "n" * 64, env=env))
    finally:
        process.kill()
        process.communicate()


def test_completion_offers_the_names_of_running_vms(umbra, running, tmp_path):
    (tmp_path / "umbra.bash").write_text(ok(umbra("--bash-completion")))

    def complete(*words):
        call = '. ./umbra.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _umbra; printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-uc", call, "bash", "umbra", *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.split()

    assert complete("kill", "") == []
    running(guests.SPIN, name="web")
    running(guests.SPIN, name="builder")
    for command in ON_A_VM:
        assert complete(command, "") == ["builder", "web"]
    assert complete("pause", "w") == ["web"]
    assert complete("stop", "web", "--") == ["--help", "--timeout", "--force"]
    assert complete("stat", "web", "--w") == ["--watch"]
    assert complete("list", "--") == ["--help", "--json"]
