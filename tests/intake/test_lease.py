"""A file that somebody has open for writing is known, whoever it is."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.intake.lease import Writer, writer_of

HOLD = "import sys; f = open(sys.argv[1], sys.argv[2]); print('open', flush=True); sys.stdin.read()"
ASK = """
import os, signal, sys
from daemon.intake.lease import writer_of
signal.signal(signal.SIGIO, signal.SIG_DFL)
fd = os.open(sys.argv[1], os.O_RDONLY)
print("ready", flush=True)
for turn in range(20_000):
    writer_of(fd)
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[int]:
    """A file opened for reading, on a file system that knows leases."""
    path = tmp_path / "talk.wav"
    path.write_bytes(b"sound")
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        os.close(fd)
        pytest.skip(f"no leases on this file system: {error}")
    yield fd
    os.close(fd)


def path_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def test_nobody_writes(held: int) -> None:
    """A closed file has no writer, and asking again gives the same answer."""
    assert [writer_of(held) for _turn in range(3)] == [Writer.NONE] * 3


@pytest.mark.parametrize(("mode", "expected"), [("ab", Writer.OPEN), ("rb", Writer.NONE)])
def test_another_process(held: int, mode: str, expected: Writer) -> None:
    """A writer in another process is seen until it ends; a reader is not taken for one."""
    command = [sys.executable, "-I", "-c", HOLD, path_of(held), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        assert writer_of(held) is expected
        other.communicate()
    assert writer_of(held) is Writer.NONE


@pytest.mark.parametrize("mode", ["ab", "r+b"])
def test_our_own_process(held: int, mode: str) -> None:
    """A writer in this very process counts too, even before it has written anything."""
    with open(path_of(held), mode):
        assert writer_of(held) is Writer.OPEN
    assert writer_of(held) is Writer.NONE


def test_the_lease_is_given_back(held: int) -> None:
    """After the question a writer may open the file at once, without waiting for anything."""
    assert writer_of(held) is Writer.NONE
    assert fcntl.fcntl(held, fcntl.F_GETLEASE) == fcntl.F_UNLCK
    os.close(os.open(path_of(held), os.O_WRONLY | os.O_NONBLOCK))


def test_what_can_not_be_asked_is_unknown() -> None:
    """A pipe, a closed descriptor and a folder are unknown, never free of writers."""
    read, write = os.pipe()
    assert writer_of(read) is Writer.UNKNOWN
    os.close(read)
    os.close(write)
    assert writer_of(read) is Writer.UNKNOWN


@pytest.mark.parametrize("code", [errno.EACCES, errno.EINVAL, errno.ENOLCK, errno.EPERM])
def test_only_a_refusal_for_a_writer_is_proof(
    held: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any error but EAGAIN says nothing (no right to ask, no leases on this file system)."""

    def refuse(_fd: int, _what: int, _how: int) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert writer_of(held) is Writer.UNKNOWN


def test_a_file_of_somebody_else_is_unknown(held: int) -> None:
    """Without the owner's rights the kernel does not say, and we do not guess."""
    if os.geteuid() != 0:
        fd = os.open("/etc/passwd", os.O_RDONLY)
        assert writer_of(fd) is Writer.UNKNOWN
        os.close(fd)
        return
    os.seteuid(65_534)  # root may ask about every file
    try:
        assert writer_of(held) is Writer.UNKNOWN
    finally:
        os.seteuid(0)


def test_a_writer_in_the_same_moment_does_not_kill_us(held: int) -> None:
    """Writers that open the file while it is asked about do not end the asking process."""
    command = [sys.executable, "-c", ASK, path_of(held)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as asking:
        assert asking.stdout is not None
        assert asking.stdout.readline() == b"ready\n"
        while asking.poll() is None:
            os.close(os.open(path_of(held), os.O_WRONLY))
    assert asking.returncode == 0
