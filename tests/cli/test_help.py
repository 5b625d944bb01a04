"""Help, version, probe, man page and completion: they are there, and they are complete."""
import re
import subprocess

import pytest

import umbra

SAMPLES = {"name": "box", "engine": "soft", "cpus": "1", "memory": "64M", "kernel": "/nonexistent/kernel", "initrd": "/nonexistent/initrd",
           "append": "quiet", "console": "none", "stats": "/nonexistent/stats.json"}


def text_of(*args):
    result = umbra.run(*args)
    assert result.returncode == 0 and not result.stderr, result
    assert result.stdout.endswith("\n")
    return result.stdout


@pytest.mark.parametrize("flag", ["--help", "-h", "help"])
def test_help_names_the_commands(flag):
    text = text_of(flag)
    for command in ("run", "probe", "--version"):
        assert f"umbra {command}" in text


def test_help_of_run_tells_settings_keys_and_statuses():
    text = text_of("run", "--help")
    assert text == text_of("run", "-h") == text_of("run", "--kernel", "x", "--help")
    for part in ("--kernel FILE", "--initrd FILE", "--append STRING", "--memory SIZE", "Ctrl-a x", "Ctrl-a h", "Exit status"):
        assert part in text
    assert len(umbra.settings()) >= 12
    assert all(len(line) <= 110 for line in text.splitlines())


def test_help_of_probe():
    assert "umbra probe" in text_of("probe", "--help")


def test_version():
    assert re.fullmatch(r"umbra \d+\.\d+\.\d+\S*\n", text_of("--version"))
    assert text_of("-V") == text_of("--version")


@pytest.mark.parametrize("args, named", [([], "command is missing"), (["boot"], "'boot'"), (["--verison"], "'--verison'"), ([""], "''"),
                                         (["--version", "now"], "'now'"), (["probe", "kvm"], "'kvm'")])
def test_what_is_no_command_is_named(args, named):
    assert named in umbra.complaint(umbra.run(*args), 2)


@pytest.mark.parametrize("args", [["--help"], ["run", "--help"], ["probe"]])
def test_help_that_cannot_be_written_is_a_failure(args):
    with open("/dev/full", "w", encoding="ascii") as full:
        assert umbra.run(*args, stdout=full).returncode == 1


def accepted(*args):
    """The parser took everything: what fails is the kernel, which does not exist."""
    assert "kernel /nonexistent/kernel does not exist" in umbra.complaint(umbra.run("run", "--kernel", SAMPLES["kernel"], *args), 1)


def test_every_setting_that_help_names_is_accepted(tmp_path):
    json = tmp_path / "empty.json"
    json.write_text("{}")
    samples = {**SAMPLES, "config": str(json)}
    for name, value in umbra.settings().items():
        if not value:
            accepted(f"--{name}")
            continue
        accepted(f"--{name}={samples[name]}")
        if value.startswith("["):
            accepted(f"--{name}")
        else:
            accepted(f"--{name}", samples[name])


def test_every_setting_but_config_is_accepted_in_a_file(tmp_path):
    for name, value in umbra.settings().items():
        if name == "config":
            continue
        sample = "true" if not value else SAMPLES[name] if name == "cpus" else f'"{SAMPLES[name]}"'
        json = tmp_path / f"{name}.json"
        json.write_text(f'{{"{name}": {sample}}}')
        accepted("--config", str(json))


def test_a_value_that_looks_like_help_is_a_value():
    accepted("--append", "--help")


def test_the_man_page_names_every_setting_and_is_roff(tmp_path):
    page = text_of("--man-page")
    assert page.startswith(".TH UMBRA 1 ")
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "SETTINGS", "CONSOLE", "EXIT STATUS"):
        assert f".SH {section}\n" in page
    plain = page.replace("\\-", "-")
    for name in umbra.settings():
        assert re.search(rf"^\.B --{name}\b", plain, re.MULTILINE)
    requests = {line.split()[0] for line in page.splitlines() if line.startswith(".")}
    assert requests <= {".TH", ".SH", ".B", ".br", ".TP", ".nf", ".fi"}


def complete(script, *words):
    """What bash offers for the last word."""
    line = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _umbra; '
            '[ ${#COMPREPLY[@]} = 0 ] || printf "%s\\n" "${COMPREPLY[@]}"')
    result = subprocess.run(["bash", "-c", line, "bash", script, "umbra", *words], capture_output=True, text=True, check=True,
                            timeout=umbra.TIMEOUT)
    assert not result.stderr
    return result.stdout.split()


def test_the_completion_knows_every_setting(tmp_path):
    script = tmp_path / "completion"
    script.write_text(text_of("--bash-completion"))
    assert {"run", "probe"} <= set(complete(script, ""))
    assert complete(script, "pr") == ["probe"]
    assert set(complete(script, "run", "--")) == {f"--{name}" for name in umbra.settings()} | {"--help"}
    assert complete(script, "run", "--engine", "s") == ["soft"]
    assert not complete(script, "run", "--memory", "")
    assert str(script) in complete(script, "run", "--kernel", str(script)[:-3])


def test_probe_has_a_row_for_everything_and_leaves_nothing():
    text = text_of("probe")
    rows = {line[:18].strip(): line[19:] for line in text.splitlines() if line[:1] not in ("", " ")}
    expected = ["KVM", "tun", "vhost-net", "io_uring", "user namespaces", "huge pages", "code memory", "software engine", "--engine auto"]
    assert list(rows) == expected
    assert all(rows.values())
    assert rows["software engine"] == "usable" and "software engine" in rows["--engine auto"]
    for name in ("tun", "vhost-net", "io_uring", "user namespaces", "huge pages", "code memory"):
        assert re.match(r"(yes|no|unknown)\b", rows[name]), name
    assert " lm " in text.replace("\n", " ")
    assert umbra.leaves_no_child()
