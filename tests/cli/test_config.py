"""The configuration file: the same settings as the flags, checked as strictly; and flags win."""
import json

import pytest

import guests


@pytest.fixture
def config(tmp_path):
    """config(VALUE or TEXT): the path of a configuration."""

    def write(value):
        path = tmp_path / "vm.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value, indent=1))
        return "vm.json"

    return write


def refused(done, *words):
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    for word in ("vm.json", *words):
        assert word in done.stderr


@pytest.mark.parametrize("key, value, wanted", [
    ("name", 1, "a string"), ("engine", True, "a string"), ("cpus", True, "a whole number, a string or an object"), ("cpus", 1.5, "a whole number"), ("pin", 0, "a string"),
    ("memory", True, "a whole number of bytes"), ("memory", 1.5, "a whole number of bytes"), ("memory", None, "not null"),
    ("kernel", [], "a string, not an array"), ("initrd", {}, "a string, not an object"), ("append", 0, "a string"),
    ("console", False, "a string"), ("no-reboot", "yes", "true or false"), ("no-reboot", 1, "true or false"),
    ("debug-exit", None, "true or false"), ("stats", 3, "true, false or the name of a file"),
])
def test_a_wrong_type_is_told_with_the_line_of_its_key(umbra, config, key, value, wanted):
    refused(umbra("run", "--config", config({"append": "x", key: value} if key != "append" else {"name": "x", key: value})),
            "vm.json:3:", f'"{key}"', wanted)


def test_unknown_keys_are_refused(umbra, config):
    refused(umbra("run", "--config", config({"kernal": "x"})), '"kernal"')
    refused(umbra("run", "--config", config({"config": "other.json"})), '"config"')


@pytest.mark.parametrize("text, words", [
    ("", ["not valid JSON"]), ("{", ["not valid JSON"]), ('{"memory": 1G}', ["vm.json:1", "not valid JSON"]),
    ("[]", ["a JSON object", "not an array"]), ('{"name": "a", "name": "b"}', ["not valid JSON"]), ("\0", ["not valid JSON"]),
])
def test_what_is_no_json_object_is_refused(umbra, config, text, words):
    refused(umbra("run", "--config", config(text)), *words)


def test_wrong_values_are_refused_as_on_the_command_line(umbra, config):
    refused(umbra("run", "--config", config({"memory": "lots"})), '"memory"', "'lots'")
    refused(umbra("run", "--config", config({"engine": "tcg"})), '"engine"', "auto, kvm or soft")


def test_a_file_can_say_everything(umbra, config, kernel, tmp_path):
    done = umbra("run", "--config", config({
        "name": "from-file", "engine": "soft", "cpus": 1, "memory": 4 << 20, "kernel": kernel(guests.say("hi") + guests.debug_exit(3)),
        "append": "x", "console": "file:out.txt", "no-reboot": True, "debug-exit": True, "stats": "stats.json",
    }))
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
    assert (tmp_path / "out.txt").read_text() == "hi"
    assert json.loads((tmp_path / "stats.json").read_text())["name"] == "from-file"


@pytest.mark.parametrize("file_first", [True, False])
def test_flags_win_over_the_file_wherever_they_stand(umbra, config, kernel, file_first):
    file = ["--config", config({"kernel": "/nonexistent", "memory": "8M"})]
    flags = ["--kernel", kernel(guests.say("flag") + guests.POWER_OFF)]
    done = umbra("run", *(file + flags if file_first else flags + file))
    assert (done.returncode, done.stdout) == (0, "flag")


@pytest.mark.parametrize("form", [["--memory", "8M"], ["--memory=8M"], ["--memory=8192K"], ["--memory", str(8 << 20)], ["--memory=8M,shared"]])
def test_values_may_follow_an_equals_sign(umbra, kernel, form):
    assert umbra("run", "--kernel", kernel(guests.POWER_OFF), *form).returncode == 0
