"""What UMBRA_SOFT in the environment asks of the software engine, and what its counters say then."""
import json
import os
import re
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
