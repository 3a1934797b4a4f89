"""Tests of daemon/lock.py: one daemon for a state folder, shown with real processes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.lock import StateLock, holder
from pipeline.core.errors import BusyError, ConfigError

ROOT = Path(__file__).parent.parent
HOLD = """
import os, subprocess, sys
from daemon.lock import StateLock
lock = StateLock.acquire(os.fsencode(sys.argv[1]))
sleeper = None
if len(sys.argv) > 2:
    sleeper = subprocess.Popen(["sleep", "600"], close_fds=False)
print(sleeper.pid if sleeper else 0, flush=True)
sys.stdin.read()
"""
LOOK = """
import os, sys
from daemon.lock import holder
print(flush=True)
while True:
    holder(os.fsencode(sys.argv[1]))
"""


@contextmanager
def other_daemon(state: bytes, *more: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A second process that holds the lock, and the pid of its child if it was to have one."""
    command = [sys.executable, "-c", HOLD, os.fsdecode(state), *more]
    child = 0
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        try:
            child = int(process.stdout.readline())
            yield process, child
        finally:
            process.kill()
            if child:
                os.kill(child, signal.SIGKILL)


def test_the_holder_can_be_named(room: bytes) -> None:
    """A held lock says pid, host, start and command; a released one has no holder."""
    state = os.path.join(room, b"deep/state")
    assert holder(state) is None
    lock = StateLock.acquire(state)
    about = holder(state)
    assert about is not None
    assert about["pid"] == os.getpid()
    assert set(about) == {"pid", "host", "started", "command"}
    lock.release()
    lock.release()
    assert holder(state) is None
    with StateLock.acquire(state):
        assert holder(state) is not None
    assert holder(state) is None


def test_a_second_one_is_refused_in_the_same_process(room: bytes) -> None:
    """The lock belongs to the one who took it, not to the process."""
    with StateLock.acquire(room), pytest.raises(BusyError):
        StateLock.acquire(room)


def test_another_process_is_refused_and_told_who_holds(room: bytes) -> None:
    """The reason says folder, pid, host and start of the holder; the hint says what to do."""
    with other_daemon(room) as (process, _child):
        with pytest.raises(BusyError) as caught:
            StateLock.acquire(room)
        about = holder(room)
        assert about is not None
        assert caught.value.reason == (
            f"the state folder {os.fsdecode(room)} is held by penstock pid {process.pid} "
            f"on host {os.uname().nodename}, started {about['started']}"
        )
        assert caught.value.hint == ("stop it first, or give this one another [daemon] state_dir")


def test_a_killed_holder_leaves_the_folder_free(room: bytes) -> None:
    """After SIGKILL nobody has to remove anything, though the file still says the old pid."""
    with other_daemon(room) as (process, _child):
        process.kill()
        process.wait()
        assert json.loads(Path(os.fsdecode(room), "lock").read_bytes())["pid"] == process.pid
        assert holder(room) is None
        with StateLock.acquire(room):
            about = holder(room)
            assert about is not None
            assert about["pid"] == os.getpid()


def test_a_child_does_not_keep_the_lock(room: bytes) -> None:
    """A worker that outlives its killed daemon does not hold the state folder."""
    with other_daemon(room, "with a child") as (process, child):
        process.kill()
        process.wait()
        os.kill(child, 0)  # it is still there
        with StateLock.acquire(room):
            pass


@pytest.mark.parametrize("content", [b"", b"\xff{", b"[1]", b'{"pid": "1\\n\\u001b[31m"}'])
def test_what_stands_in_the_file_is_not_trusted(room: bytes, content: bytes) -> None:
    """A damaged file makes a shorter message, never another error nor a second line."""
    with StateLock.acquire(room):
        Path(os.fsdecode(room), "lock").write_bytes(content)
        assert isinstance(holder(room), dict)
        with pytest.raises(BusyError, match="is held by ") as caught:
            StateLock.acquire(room)
        assert caught.value.reason.isprintable()


def test_looking_does_not_disturb_a_start(room: bytes) -> None:
    """While others look who holds the folder, it can still be taken."""
    StateLock.acquire(room).release()
    command = [sys.executable, "-c", LOOK, os.fsdecode(room)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()  # it has begun
            for _turn in range(50):
                StateLock.acquire(room).release()
        finally:
            process.kill()


def test_a_folder_that_can_not_be_used(room: bytes) -> None:
    """A file in the folder's place, or a link in the lock's, is a config error in plain words."""
    path = os.path.join(room, b"file")
    Path(os.fsdecode(path)).write_bytes(b"")
    with pytest.raises(ConfigError, match="can not be used"):
        StateLock.acquire(path)
    with pytest.raises(ConfigError, match="can not be used"):
        holder(path)
    os.symlink(b"file", os.path.join(room, b"lock"))
    with pytest.raises(ConfigError, match="can not be used"):
        StateLock.acquire(room)
