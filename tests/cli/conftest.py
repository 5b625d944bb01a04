"""What must be there before any of these tests can say something."""
import ctypes
import os

import pytest

import umbra


@pytest.fixture(scope="session", autouse=True)
def binary():
    if not os.access(umbra.BINARY, os.X_OK):
        pytest.exit(f"{umbra.BINARY} is missing: make", 2)
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


@pytest.fixture
def guest(tmp_path):
    """Writes a guest to a file of its own: guest(blob.Blob()...) is its path."""
    count = 0

    def write(made):
        nonlocal count
        count += 1
        path = tmp_path / f"guest{count}"
        path.write_bytes(made.image())
        return str(path)

    return write
