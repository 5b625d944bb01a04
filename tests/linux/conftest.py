"""What the tests that boot Linux share: one guest for everything that leaves it as it was."""
import os
import re
import tempfile

import pytest

import programs
import vm


def pytest_configure(config):
    config.addinivalue_line("markers", "soak: takes minutes; only make soak runs it")
    config.addinivalue_line("markers", "umbra_only: is about umbra itself, not about the guest: QEMU skips it")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if vm.IS_QEMU and item.get_closest_marker("umbra_only"):
            item.add_marker(pytest.mark.skip(reason="about umbra itself"))


@pytest.fixture(scope="session", autouse=True)
def runtime_dir():
    """VMs of other test runs have names too."""
    with tempfile.TemporaryDirectory(prefix="umbra-test-") as path:
        os.environ["XDG_RUNTIME_DIR"] = path
        yield path


@pytest.fixture(scope="session", autouse=True)
def files():
    """Fails at once, with what would help, when something that every test needs is missing."""
    for f in (vm.KERNEL, vm.INITRD) + (() if vm.IS_QEMU else (vm.BINARY,)):
        if not os.path.exists(f):
            pytest.exit(f"{f} is missing: make all guest", 2)


@pytest.fixture(scope="session")
def programs_initrd():
    return programs.initrd()


@pytest.fixture(scope="session")
def shared_guest(programs_initrd):
    with vm.Vm(initrd=programs_initrd) as guest:
        guest.prompt()
        yield guest


@pytest.fixture
def guest(shared_guest):
    """The shared guest at its prompt; a test that failed half-way through a command is cleaned up after."""
    if shared_guest.process.poll() is not None:
        pytest.fail("the shared guest has ended")
    yield shared_guest
    if not re.search(vm.PROMPT + r"$", shared_guest.output):
        shared_guest.send("\x03")
        shared_guest.prompt(vm.TIMEOUT)
    shared_guest.seen = len(shared_guest.output)
