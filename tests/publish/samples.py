"""Names and files that the tests of this room share."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from daemon.values import Sighting

UID = "0123456789abcdef"
NAMES = (
    b"talk.wav",
    b"my talk.wav",
    b'it\'s "so" \\ 100%.wav',
    b"a\nWATCHDOG=trigger\nb.wav",
    "sm\N{GRINNING FACE}le \u202egnp.wav".encode(),
    b"bad\xff\xfe.wav",
    b"x" * 251 + b".wav",
    ("ä" * 125 + ".wavy").encode(),
    b"-y.wav",
    b"--help",
    b"$(reboot).wav",
    b"<img src=x onerror=y>.wav",
    b"trail. ",
    b"sub/de ep/talk.wav",
)


def make(path: bytes, data: bytes = b"sound") -> bytes:
    """A file with these bytes, its folders too; returns its path."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    return path


def seen(root: bytes, name: bytes) -> Sighting:
    """What a look at a file below root sees."""
    there = os.lstat(os.path.join(root, name))
    return Sighting(name=name, size=there.st_size, mtime_ns=there.st_mtime_ns, ino=there.st_ino)


def marks(path: bytes) -> tuple[int, int, int, int]:
    """What tells that a name still holds the same thing, untouched; being read does not count."""
    there = os.lstat(path)
    return there.st_ino, there.st_mode, there.st_size, there.st_mtime_ns


def folders(room: bytes, *names: bytes) -> list[bytes]:
    """New folders in the room."""
    paths = [os.path.join(room, name) for name in names]
    for path in paths:
        os.makedirs(path)
    return paths


@contextmanager
def elsewhere(room: bytes) -> Iterator[bytes]:
    """A folder on another file system than the room's; skips the test if there is none."""
    try:
        path = os.fsencode(tempfile.mkdtemp(dir="/dev/shm"))
    except OSError:
        pytest.skip("there is no /dev/shm")
    try:
        if os.stat(path).st_dev == os.stat(room).st_dev:
            pytest.skip("/dev/shm is the same file system")
        yield path
    finally:
        shutil.rmtree(path)
