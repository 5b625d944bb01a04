"""What UMBRA_SOFT in the environment asks of the software engine, and what its counters say then."""
import json
import os
import re
import struct
import subprocess

import pytest

import guests
from conftest import BINARY, TIMEOUT

# mov ecx, 1000; dec ecx; jnz to it; and some steps: smsw, cpuid
LOOP = b"\xb9\xe8\x03\x00\x00\x49\x75\xfd" + b"\x0f\x01\xe0" * 3 + b"\x0f\xa2"
PROGRAM = LOOP + guests.say("x") + guests.POWER_OFF


def with_soft(words):
    return {**os.environ, "UMBRA_SOFT": words}


@pytest.mark.parametrize("words", ["", "step", "translate", "lockstep", "step,", "translate,translate"])
def test_each_word_runs_the_guest(umbra, kernel, words):
    done = umbra("run", "--kernel", kernel(PROGRAM), env=with_soft(words))
    assert (done.returncode, done.stdout, done.stderr) == (0, "x", "")


@pytest.mark.parametrize("words", ["steps", "Step", "translate,fast", ",step"])
def test_another_word_is_refused_by_a_sentence_that_names_it(umbra, kernel, words):
    done = umbra("run", "--kernel", kernel(PROGRAM), env=with_soft(words))
    assert (done.returncode, done.stdout) == (1, "")
    wrong = next(w for w in words.split(",") if w != "translate")
    assert f'UMBRA_SOFT in the environment has "{wrong}"' in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_map_for_perf_names_blocks_by_their_guest_addresses(start, kernel):
    process = start("run", "--kernel", kernel(PROGRAM), env=with_soft("perf"))
    assert process.wait(TIMEOUT) == 0, process.stderr.read()
    path = f"/tmp/perf-{process.pid}.map"
    try:
        with open(path, encoding="ascii") as f:
            lines = f.read().splitlines()
    finally:
        os.unlink(path)
    assert all(re.fullmatch(r"[0-9a-f]+ [0-9a-f]+ (umbra:(exit|stubs)|guest:[ku](32|64):[0-9a-f]{16})", line) for line in lines)
    ranges = sorted((int(start, 16), int(size, 16)) for start, size, _ in (line.split() for line in lines))
    assert all(size > 0 and at + size <= following for (at, size), (following, _) in zip(ranges, ranges[1:]))
    names = {line.split()[2] for line in lines}
    assert {"umbra:exit", "umbra:stubs", "guest:k32:0000000000100020", "guest:k32:0000000000100025"} <= names


def test_a_link_in_the_place_of_the_map_is_not_followed(tmp_path, kernel):
    target = tmp_path / "precious"
    target.write_text("kept")
    # exec keeps the shell's number, so that the link can be there first.
    script = 'ln -s "$0" /tmp/perf-$$.map; echo $$; exec "$@"'
    done = subprocess.run(["sh", "-c", script, str(target), BINARY, "run", "--kernel", kernel(guests.POWER_OFF)],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, env=with_soft("perf"), timeout=TIMEOUT, check=False)
    path = f"/tmp/perf-{int(done.stdout.split()[0])}.map"
    try:
        assert done.returncode == 0, done.stderr
        assert not os.path.islink(path) and os.path.getsize(path) > 0
    finally:
        os.unlink(path)
    assert target.read_text() == "kept"


def test_the_counters_say_how_code_was_left_and_what_was_stepped(umbra, kernel, tmp_path):
    done = umbra("run", "--stats=s.json", "--kernel", kernel(PROGRAM))
    assert done.returncode == 0
    stats = json.loads((tmp_path / "s.json").read_text())
    engine, steps = stats["engine"], stats["steps"]
    assert engine["block_entries"] == sum(v for k, v in engine.items() if k.startswith("exits_")) > 0
    assert engine["code_links_made"] >= 1 and engine["code_links_cut"] == 0 and engine["code_cache_flushes"] == 0
    assert (steps["smsw"], steps["cpuid"]) == (3, 1)
    assert 2000 < engine["instructions"] < 2100
    assert stats["engine_time"]["translator"]["count"] == engine["blocks_translated"] > 0
    assert all(stats["engine_time"][part]["ns"] > 0 for part in ("translator", "translated_code", "rest"))


def word(value):
    return struct.pack("<I", value)


# 4 KiB pages at 4 MiB, beside a large one for the first 4 MiB.
PAGING = guests.poke32(0x200000, 0x83) + guests.poke32(0x200004, 0x201003) + b"".join(guests.poke32(0x201000 + 4 * i, 0x300003 + (i << 12)) for i in range(4))
PAGING += b"\x0f\x20\xe0\x83\xc8\x10\x0f\x22\xe0"  # CR4.PSE
PAGING += b"\xb8" + word(0x200000) + b"\x0f\x22\xd8"  # CR3
PAGING += b"\x0f\x20\xc0\x0d" + word(0x80000000) + b"\x0f\x22\xc0"  # CR0.PG
READ, WRITE, INVLPG, CALL = b"\xa1", b"\xa3", b"\x0f\x01\x3d", b"\xff\x15"
CR3_AGAIN = b"\x0f\x20\xd8\x0f\x22\xd8"


def counted(umbra, kernel, tmp_path, code):
    """The engine's counters of a guest that runs this with paging on, less those of one that only powers off."""
    counts = []
    for program in (PAGING + code, PAGING):
        assert umbra("run", "--engine", "soft", "--stats=s.json", "--kernel", kernel(program + guests.POWER_OFF)).returncode == 0
        counts.append(json.loads((tmp_path / "s.json").read_text())["engine"])
        assert sum(v for k, v in counts[-1].items() if k.startswith("flushes_by_")) == sum(
            counts[-1][k] for k in ("flushes_all", "flushes_nonglobal", "flushes_page"))
        assert sum(v for k, v in counts[-1].items() if k.startswith("fills_")) == counts[-1]["shadow_fills"]
    more, fewer = counts
    return {k: more[k] - fewer[k] for k in more if k.startswith(("fills_", "flushes_by_", "code_pages")) and more[k] != fewer[k]}


@pytest.mark.parametrize("code,wanted", [
    (READ + word(0x400000), {"fills_read": 1}),
    (WRITE + word(0x400000) + READ + word(0x400004), {"fills_write": 1}),
    (READ + word(0x400000) + WRITE + word(0x400000), {"fills_read": 1, "fills_dirtied": 1}),
    (WRITE + word(0x400000) + CR3_AGAIN + READ + word(0x400000) + WRITE + word(0x400000), {"fills_write": 1, "fills_read": 1, "flushes_by_cr3": 1}),
    (READ + word(0x400000) + (INVLPG + word(0x400000) + READ + word(0x400000)) * 3, {"fills_read": 4, "flushes_by_invlpg": 3}),
    (b"\x0f\x20\xe0\x34\x80\x0f\x22\xe0" * 2, {"flushes_by_cr4": 2}),  # CR4.PGE on and off
    (b"\x0f\x20\xc0\x35" + word(0x10000) + b"\x0f\x22\xc0", {"flushes_by_cr0": 1}),  # CR0.WP
    (b"\xb9\x80\x00\x00\xc0\x0f\x32\x80\xcc\x08\x0f\x30", {"flushes_by_efer": 1}),  # EFER.NXE
])
def test_fills_and_flushes_are_counted_by_cause(umbra, kernel, tmp_path, code, wanted):
    assert counted(umbra, kernel, tmp_path, code) == wanted


def test_pages_of_code_that_the_guest_writes_to_are_counted(umbra, kernel, tmp_path):
    """RET at 0x400000, called; written to, which step does, and once more, which takes an entry."""
    write = guests.poke32(0x400000, 0xC3)
    code = b"\xbc" + word(0x180000) + write + guests.poke32(0x401000, 0x400000) + CALL + word(0x401000) + write + write
    assert counted(umbra, kernel, tmp_path, code) == {
        "code_pages": 1, "code_pages_written_by_guest": 1, "fills_write": 3, "fills_allowed": 1}
