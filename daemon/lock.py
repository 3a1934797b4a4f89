"""One daemon for one state folder: a lock that the kernel drops when its holder dies."""

import datetime
import errno
import fcntl
import json
import os
import socket
import sys
import time
from types import TracebackType
from typing import Any, Self

from pipeline.core.errors import BusyError, ConfigError
from pipeline.core.files import make_folders
from pipeline.core.text import shown

NAME = b"lock"
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW
_TRIES = 25  # a look by `holder` takes the lock for a moment, which must not fail a start
_PAUSE_SECONDS = 0.01
_CONTENT_LIMIT = 4096  # bytes


class StateLock:
    """The held lock of a state folder; `with` releases it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def acquire(cls, state_dir: bytes) -> Self:
        """Take the lock or raise BusyError, which says who has it; never waits for the holder.

        Makes the folder if it is missing. ConfigError if it can not be made or written.
        """
        try:
            make_folders(state_dir)
            fd = os.open(os.path.join(state_dir, NAME), os.O_RDWR | os.O_CREAT | _FLAGS, 0o644)
        except OSError as error:
            raise _unusable(state_dir, error) from error
        try:
            _take(fd, state_dir)
            _write(fd, _about_us())
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    def release(self) -> None:
        """Give the folder free; may be called again. The file stays: to remove it is a race."""
        if self._fd < 0:
            return
        os.ftruncate(self._fd, 0)
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def holder(state_dir: bytes) -> dict[str, Any] | None:
    """Who holds the state folder now: pid, host, started, command; None if nobody does.

    Empty if somebody does who has not written it yet. ConfigError if it can not be read.
    """
    try:
        fd = os.open(os.path.join(state_dir, NAME), os.O_RDONLY | _FLAGS)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(state_dir, error) from error
    try:
        return None if _try_lock(fd, fcntl.LOCK_SH) else _content(fd)
    finally:
        os.close(fd)


def _take(fd: int, state_dir: bytes) -> None:
    for turn in range(_TRIES):
        if turn:
            time.sleep(_PAUSE_SECONDS)
        if _try_lock(fd, fcntl.LOCK_EX):
            return
    raise BusyError(*_busy(state_dir, _content(fd)))


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _about_us() -> bytes:
    about = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shown(" ".join(sys.argv)),
    }
    return json.dumps(about).encode() + b"\n"


def _write(fd: int, data: bytes) -> None:
    """What stands in the file is for people only: a full disk is no reason not to start."""
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, data, 0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


def _content(fd: int) -> dict[str, Any]:
    try:
        about = json.loads(os.pread(fd, _CONTENT_LIMIT, 0))
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}


def _busy(state_dir: bytes, about: dict[str, Any]) -> tuple[str, str]:
    """Reason and hint for people."""
    who = "another penstock"
    if about:
        pid, host, started = (shown(str(about.get(key, "?"))) for key in ("pid", "host", "started"))
        who = f"penstock pid {pid} on host {host}, started {started}"
    return (
        f"the state folder {shown(state_dir)} is held by {who}",
        "stop it first, or give this one another [daemon] state_dir",
    )


def _unusable(state_dir: bytes, error: OSError) -> ConfigError:
    return ConfigError(
        f"the state folder {shown(state_dir)} can not be used: {error.strerror}",
        "give the service's user the right to read and write it, "
        "or choose another [daemon] state_dir",
    )
