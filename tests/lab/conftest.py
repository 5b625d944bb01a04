"""What the tests in the lab share: `lab` runs a script of tests/lab/l1 in an L1 made as the test wants it."""
import os
import time

import pytest

import lab as the_lab


def pytest_configure(config):
    config.addinivalue_line("markers", "soak: takes minutes; only make soak and make lab run it")


@pytest.fixture
def lab(request):
    """lab(SCRIPT, ARGUMENTS, emulator=, npt=, cpus=, ...): its Result; the keywords are those of lab.Machine. The script has to end with status 0."""
    start = time.monotonic()

    def run(script, arguments=(), **machine):
        __tracebackhide__ = True
        if why := the_lab.missing(machine.get("emulator", "qemu")):
            pytest.skip(why)
        print()
        return the_lab.run(request.node.name, os.path.join(the_lab.initramfs.L1, script), arguments,
                           lambda line: print(f"{time.monotonic() - start:7.1f}  {line}", flush=True), **machine)

    return run
