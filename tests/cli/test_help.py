"""The texts: help, version, man page, completion, probe."""
import re
import subprocess

import pytest

from conftest import BINARY

OPTIONS = ["name", "engine", "cpus", "pin", "memory", "code-cache", "kernel", "initrd", "append", "console", "disk", "net", "rng", "queue-work", "fw-cfg",
           "no-reboot", "debug-exit", "gdb", "stats", "config"]
COMMANDS = ["run", "probe", "list", "pause", "resume", "stop", "reset", "nmi", "kill", "console", "screen", "stat", "trace"]


def text(umbra, *args):
    done = umbra(*args)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("flag", ["--help", "-h", "help"])
def test_help_names_every_command(umbra, flag):
    out = text(umbra, flag)
    for command in COMMANDS:
        assert f"\n  umbra {command} " in out
    assert "--version" in out


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version_is_one_line(umbra, flag):
    assert re.fullmatch(r"umbra \d+\.\d+\.\d+\n", text(umbra, flag))


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["--memory", "1G", "--help"]])
def test_run_help_is_complete(umbra, args):
    out = text(umbra, "run", *args)
    for option in OPTIONS:
        assert f"\n  --{option}" in out
    for words in ("Ctrl-a x", "Ctrl-a h", "Exit status", "128 + n", "/dev/null or closed", "'resize'"):
        assert words in out
    assert max(map(len, out.splitlines())) <= 100


def test_every_option_in_help_is_known_here(umbra):
    assert re.findall(r"^  --([a-z-]+)", text(umbra, "run", "--help"), re.M) == OPTIONS


def test_a_value_that_reads_help_is_a_value(umbra):
    done = umbra("run", "--append", "--help")
    assert done.returncode == 2
    assert "no kernel" in done.stderr


def test_help_that_cannot_be_written_fails(umbra):
    for args in (["--help"], ["run", "--help"], ["probe", "--help"], ["--version"], ["probe"]):
        with open("/dev/full", "w", encoding="ascii") as full:
            assert umbra(*args, stdout=full).returncode == 1, args


def test_man_page_has_every_option_and_no_stray_request(umbra):
    out = text(umbra, "--man-page")
    requests = set(re.findall(r"^[.'](\S+)", out, re.M))
    assert requests <= {"TH", "SH", "TP", "B", "br", "nf", "fi", "RS", "RE"}
    for option in OPTIONS:
        assert ".B \\-\\-" + option.replace("-", "\\-") in out
    for command in COMMANDS:
        assert re.search(rf"^\.B umbra {command}( NAME)?$", out, re.M), command
    for option in ("timeout SECONDS", "force", "watch[=SECONDS]", "json", "color"):
        assert f".B \\-\\-{option}\n" in out
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "SETTINGS", "CONSOLE", "EXIT STATUS"):
        assert f".SH {section}\n" in out


def complete(tmp_path, script, *words):
    (tmp_path / "umbra.bash").write_text(script)
    call = '. ./umbra.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _umbra; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-euc", call, "bash", *words], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_completion_offers_commands_options_and_values(umbra, tmp_path):
    script = text(umbra, "--bash-completion")
    assert complete(tmp_path, script, "umbra", "") == COMMANDS + ["--help", "--version"]
    assert complete(tmp_path, script, "umbra", "run", "--") == ["--help"] + [f"--{o}" for o in OPTIONS]
    assert complete(tmp_path, script, "umbra", "run", "--no") == ["--no-reboot"]
    assert complete(tmp_path, script, "umbra", "run", "--engine", "s") == ["soft"]
    assert complete(tmp_path, script, "umbra", "run", "--net", "ta") == ["tap="]
    assert "umbra.bash" in complete(tmp_path, script, "umbra", "run", "--disk", "umb")
    assert complete(tmp_path, script, "umbra", "run", "--memory", "") == []
    (tmp_path / "vmlinuz").touch()
    assert complete(tmp_path, script, "umbra", "run", "--kernel", "vm") == ["vmlinuz"]


def test_probe_has_a_row_for_everything_that_matters(umbra):
    rows = dict(re.findall(r"^(\S.{16}\S?) +(\S.*)$", text(umbra, "probe"), re.M))
    rows = {name.strip(): value for name, value in rows.items()}
    for name in ("KVM", "tun", "vhost-net", "io_uring", "user network", "user namespaces", "huge pages", "code memory", "software engine"):
        assert re.match("yes|no|present|absent|usable|/dev/kvm is there|the software", rows[name]), name
    assert re.fullmatch("takes (KVM|the software engine)|finds no engine here", rows["--engine auto"])
    assert rows["disk I/O"].startswith("io_uring" if rows["io_uring"] == "yes" else "worker threads")


def test_probe_lists_the_features_that_guests_get(umbra):
    words = text(umbra, "probe").split("CPU features", 1)[1].split("--engine auto")[0].split()
    assert {"fpu", "sse2", "lm", "nx", "syscall"} <= set(words)
    assert not {"vmx", "svm"} & set(words)
    assert len(words) == len(set(words))


def test_probe_takes_no_arguments(umbra):
    done = umbra("probe", "kvm")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'kvm'" in done.stderr


def test_umbra_works_with_standard_files_closed(umbra):
    """Closed ones are not given to files that it opens: a message must not land in them."""
    done = subprocess.run(["bash", "-c", f'"{BINARY}" run --kernel /nonexistent <&- >&- 2>&-'], check=False)
    assert done.returncode == 1
    assert umbra("--version", stdin=None).returncode == 0
