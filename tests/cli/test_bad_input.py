"""What is wrong with the command line or with files: one sentence that names it, the right status, and nothing left behind."""
import os
import struct

import blob
import pytest

import umbra

USAGE, HOST = 2, 1


def bad(tmp_path, status, *args):
    """Runs umbra in an empty folder of its own; afterwards nothing is in it, and no process is left."""
    folder = tmp_path / "cwd"
    folder.mkdir(exist_ok=True)
    sentence = umbra.complaint(umbra.run("run", *args, cwd=folder), status)
    assert not list(folder.iterdir())
    assert umbra.leaves_no_child()
    return sentence


def test_no_kernel(tmp_path):
    assert "--kernel" in bad(tmp_path, USAGE)
    assert "--kernel" in bad(tmp_path, USAGE, "--memory", "64M")


@pytest.mark.parametrize("flag", ["kernel", "initrd"])
def test_a_file_that_is_not_there(tmp_path, guest, flag):
    flags = {"kernel": guest(blob.echo()), flag: "no-such-file"}
    sentence = bad(tmp_path, HOST, *(f"--{k}={v}" for k, v in flags.items()))
    assert f"{flag} no-such-file" in sentence and "does not exist" in sentence


@pytest.mark.parametrize("flag", ["kernel", "initrd"])
def test_a_directory(tmp_path, guest, flag):
    flags = {"kernel": guest(blob.echo()), flag: str(tmp_path)}
    sentence = bad(tmp_path, HOST, *(f"--{k}={v}" for k, v in flags.items()))
    assert str(tmp_path) in sentence and "directory" in sentence


@pytest.mark.parametrize("flag", ["kernel", "initrd"])
def test_an_empty_file(tmp_path, guest, flag):
    empty = tmp_path / "empty"
    empty.touch()
    flags = {"kernel": guest(blob.echo()), flag: str(empty)}
    sentence = bad(tmp_path, HOST, *(f"--{k}={v}" for k, v in flags.items()))
    assert str(empty) in sentence and "empty" in sentence


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path, guest):
    path = guest(blob.echo())
    os.chmod(path, 0)
    assert path in bad(tmp_path, HOST, "--kernel", path)


def bzimage_start():
    """A bzImage whose header promises more than there is."""
    if os.path.exists(umbra.VMLINUZ):
        with open(umbra.VMLINUZ, "rb") as f:
            return f.read(1_000_000)
    data = bytearray(0x8000)
    data[0x1F1] = 7  # setup sectors
    data[0x1F4:0x1F8] = struct.pack("<I", 0x100000)  # paragraphs of protected-mode code
    data[0x1FE:0x200] = b"\x55\xaa"
    data[0x202:0x208] = b"HdrS" + struct.pack("<H", 0x20F)
    data[0x236:0x238] = struct.pack("<H", 3)  # 64-bit entry
    data[0x248:0x250] = struct.pack("<II", 0x1000, 0xF00000)  # payload
    return bytes(data)


@pytest.mark.parametrize("size", [0x8000, 0x1000, 0x240, 16, 1])
def test_a_kernel_that_is_cut_short(tmp_path, size):
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(bzimage_start()[:size])
    assert str(kernel) in bad(tmp_path, HOST, "--kernel", str(kernel))


def test_a_kernel_whose_payload_is_cut_short(tmp_path):
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(bzimage_start())
    sentence = bad(tmp_path, HOST, "--kernel", str(kernel))
    assert str(kernel) in sentence and "cut short" in sentence


def test_a_kernel_that_is_something_else(tmp_path):
    kernel = tmp_path / "letter"
    kernel.write_text("Dear kernel,\n" * 1000)
    assert str(kernel) in bad(tmp_path, HOST, "--kernel", str(kernel))


def test_an_initrd_larger_than_memory(tmp_path, guest):
    initrd = tmp_path / "initrd"
    with open(initrd, "wb") as f:
        f.truncate(32 << 20)
    sentence = bad(tmp_path, HOST, "--kernel", guest(blob.echo()), "--initrd", str(initrd), "--memory", "16M")
    assert str(initrd) in sentence


def test_a_kernel_larger_than_memory(tmp_path, guest):
    big = blob.Blob().spin()
    big.code += bytes(5 << 20)
    path = guest(big)
    assert path in bad(tmp_path, HOST, "--kernel", path, "--memory", "4M")


@pytest.mark.parametrize("size, named", [("1M", "1M"), ("0", "0"), ("64M,private", "64M,private"), ("lots", "lots"), ("", "memory"),
                                         ("-1", "-1"), ("5000001", "5000001"), ("99999999999999999999G", "99999999999999999999G"),
                                         ("16M 16M", "16M 16M")])
def test_memory_that_no_machine_has(tmp_path, size, named):
    sentence = bad(tmp_path, USAGE, "--kernel", "x", "--memory", size)
    assert "memory" in sentence and named in sentence


@pytest.mark.parametrize("args, named", [
    (["--kernl", "x"], "--kernel"), (["--memroy=1G"], "--memory"), (["--noreboot"], "--no-reboot"), (["--Append", "x"], "--append"),
])
def test_a_flag_spelled_wrongly_with_the_right_one(tmp_path, args, named):
    sentence = bad(tmp_path, USAGE, *args)
    assert args[0].split("=", maxsplit=1)[0] in sentence and f"did you mean {named}?" in sentence


@pytest.mark.parametrize("flag", ["--disk", "--net", "--gdb", "--snapshot", "--api-socket", "--share", "--" + "x" * 500])
def test_a_flag_that_there_is_not(tmp_path, flag):
    sentence = bad(tmp_path, USAGE, "--kernel", "x", flag, "value")
    assert f"unknown option {flag}"[:60] in sentence


@pytest.mark.parametrize("argument", ["vmlinuz", "-k", "--", "-"])
def test_an_argument_that_is_no_flag(tmp_path, argument):
    assert f"'{argument}'" in bad(tmp_path, USAGE, argument)


def test_a_value_that_is_missing(tmp_path):
    for name, value in umbra.settings().items():
        if value and not value.startswith("["):
            assert f"--{name} needs a value" in bad(tmp_path, USAGE, f"--{name}")


@pytest.mark.parametrize("args, named", [
    (["--no-reboot=yes"], "--no-reboot"), (["--debug-exit=1"], "--debug-exit"), (["--cpus", "2"], "2 CPUs"), (["--cpus", "0"], "0 CPUs"),
    (["--cpus", "two"], "'two'"), (["--engine", "kvm"], "'kvm'"), (["--console", "vga"], "'vga'"), (["--console", "file:"], "--console"),
    (["--name", "a b"], "'a b'"), (["--name", ""], "name"), (["--name", "x" * 65], "name"), (["--kernel", ""], "--kernel"),
    (["--stats="], "--stats"),
    (["--console", "file:same", "--stats=same"], "same"),
])
def test_a_value_that_is_wrong(tmp_path, args, named):
    assert named in bad(tmp_path, USAGE, "--kernel", "x", *args)


def test_a_console_that_cannot_be_written(tmp_path, guest):
    path = "/nonexistent/console"
    assert path in bad(tmp_path, HOST, "--kernel", guest(blob.echo()), "--console", f"file:{path}")


def test_a_console_that_nobody_reads(tmp_path, guest):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert str(fifo) in bad(tmp_path, HOST, "--kernel", guest(blob.echo()), "--console", f"file:{fifo}")


def test_what_fails_early_touches_no_file(tmp_path):
    console = tmp_path / "kept"
    console.write_text("from the last run")
    bad(tmp_path, HOST, "--kernel", "no-such-file", "--console", f"file:{console}", "--stats=stats.json")
    assert console.read_text() == "from the last run"


# --- configuration files ---

@pytest.mark.parametrize("text, named", [
    ('{\n "memory": true}', ':2: "memory"'), ('{"kernel": 5}', '"kernel"'), ('{"cpus": "1"}', '"cpus"'), ('{"cpus": 1.5}', '"cpus"'),
    ('{"no-reboot": "yes"}', '"no-reboot"'), ('{"append": ["a"]}', '"append"'), ('{"name": null}', '"name"'),
    ('{"memory": -1}', '"memory"'), ('{"memory": "some"}', "some"), ('{"stats": 1}', '"stats"'),
    ('{\n\n "disk": "x"}', ':3: unknown key "disk"'), ('{"config": "x.json"}', 'unknown key "config"'),
    ('{"kernel": "a",\n "kernel": "b"}', ":2: "), ('{\n "kernel": "a",\n}', ":3: "), ('{"kernel": "a"', ":1: "), ("", ":1: "),
    ("[]", "must be a JSON object"), ('"x"', ":1: "), ('{"kernel": "a"} x', ":1: "), ("\xff\xfe", ":1: "),
])
def test_a_configuration_that_is_wrong(tmp_path, text, named):
    json = tmp_path / "vm.json"
    json.write_text(text, encoding="latin-1")
    sentence = bad(tmp_path, USAGE, "--kernel", "x", "--config", str(json))
    assert sentence.startswith(f"{json}:") and named in sentence


@pytest.mark.parametrize("path", ["no-such.json", "/"])
def test_a_configuration_that_is_not_there(tmp_path, path):
    assert f"configuration {path}" in bad(tmp_path, USAGE, "--config", path)


def test_flags_win_over_the_file_wherever_they_stand(tmp_path):
    json = tmp_path / "vm.json"
    json.write_text('{"kernel": "/nonexistent/of-file", "memory": "64M"}')
    assert "/nonexistent/of-file" in bad(tmp_path, HOST, "--config", str(json))
    for args in (["--kernel", "/nonexistent/of-flag", "--config", str(json)], ["--config", str(json), "--kernel", "/nonexistent/of-flag"]):
        assert "/nonexistent/of-flag" in bad(tmp_path, HOST, *args)
