"""Folders below a configured root, reached without following links, and free names in them."""

import errno
import hashlib
import itertools
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager

from pipeline.core.errors import JobError, NoSpace, Transient
from pipeline.core.files import FULL, numbered, remove_if_there, sync_folder
from pipeline.core.text import fit_name, shown

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def held(root: bytes, below: bytes = b"", *, make: bool = False) -> Iterator[bytes]:
    """A path that stays this very folder, whatever happens to its name meanwhile.

    The root may lie behind links, for the config names it; below it no link is followed. `make`
    makes what is missing below the root, never the root itself: that would write beneath the
    mount point of a share that is gone. Raises FileNotFoundError if it is not there and, with
    `make`, FileExistsError if something that is no folder has one of its names.
    """
    fd = _open_below(root, below, make)
    try:
        yield b"/proc/self/fd/%d" % fd
    finally:
        os.close(fd)


def _open_below(root: bytes, below: bytes, make: bool) -> int:
    here = os.open(root, _FOLDER)
    try:
        for part in _parts(below):
            if make:
                _make(here, part)
            deeper = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = deeper
    except NotADirectoryError as error:
        os.close(here)
        if not make:
            raise
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), below) from error
    except BaseException:
        os.close(here)
        raise
    return here


def _parts(below: bytes) -> list[bytes]:
    parts = [part for part in below.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise ValueError(f"{shown(below)} leads out of its folder")
    return parts


def _make(here: int, part: bytes) -> None:
    try:
        os.mkdir(part, dir_fd=here)
    except FileExistsError:
        return
    sync_folder(b"/proc/self/fd/%d" % here)


def folder_of(path: bytes, root: bytes = b"") -> AbstractContextManager[bytes]:
    """The folder that a path lies in, held; below `root`, if given, no link is followed."""
    folder = os.path.dirname(path)
    if not root:
        return held(folder)
    return held(root, os.path.relpath(folder, root))


def split_root(path: bytes, name: bytes) -> tuple[bytes, bytes, bytes]:
    """A path that mirrors a drop's relative name as its root, the folder below it, the file name.

    `/archive/sub/talk (2).wav` with the name `sub/talk.wav` is (`/archive`, `sub`, `talk (2).wav`).
    """
    *parts, last = path.split(b"/")
    depth = len(parts) - (len(_parts(name)) - 1)
    return b"/".join(parts[:depth]) or b"/", b"/".join(parts[depth:]), last


def free_name(root: bytes, wanted: bytes, taken: Collection[bytes] = (), *, folder: bool) -> bytes:
    """The first of wanted, `wanted (2)` … that is neither below root nor taken; relative to root.

    A parent whose name belongs to something that is no folder is numbered in the same way.
    """
    *parents, last = _parts(wanted)
    here = b""
    for part in parents:
        choices = (os.path.join(here, numbered(part, n, folder=True)) for n in itertools.count(1))
        here = next(choice for choice in choices if _can_hold(os.path.join(root, choice)))
    choices = (os.path.join(here, numbered(last, n, folder=folder)) for n in itertools.count(1))
    return next(
        choice
        for choice in choices
        if choice not in taken and look(os.path.join(root, choice)) is None
    )


def _can_hold(path: bytes) -> bool:
    there = look(path)
    return there is None or stat.S_ISDIR(there.st_mode)


def look(path: bytes) -> os.stat_result | None:
    """What lies at a name, links not followed; None if nothing does."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def beside(path: bytes, suffix: bytes) -> bytes:
    """The companion's path: the file's full name and a suffix, within 255 bytes.

    A name that has to be cut carries a mark of the whole, so that two long ones stay apart.
    """
    folder, name = os.path.split(path)
    if len(name) + len(suffix) > 255:
        mark = hashlib.sha256(name).hexdigest()[:8].encode()
        suffix = b"~%s%s" % (mark, suffix)
    return os.path.join(folder, fit_name(name, suffix))


def read_small(path: bytes, limit: int) -> bytes:
    """A regular file's bytes, at most `limit` of them; empty if it is anything else or unreadable.

    For looking whether a file is one of ours: never blocks on a pipe, never follows a link.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        with os.fdopen(fd, "rb", closefd=False) as source:
            return source.read(limit)
    except OSError:
        return b""
    finally:
        os.close(fd)


def remove_any(path: bytes) -> None:
    """Remove a file, a link (not what it points to) or a folder with all that is in it."""
    there = look(path)
    if there is not None and stat.S_ISDIR(there.st_mode):
        shutil.rmtree(path)
    else:
        remove_if_there(path)


def trouble(error: OSError, what: str) -> JobError:
    """An error of the file system in plain words; `what` says what could not be done."""
    code = error.errno
    if code in (*FULL, errno.EFBIG):
        why = "the quota is used up" if code == errno.EDQUOT else "there is no room left"
        return NoSpace(f"{what}: {why}", "free some space on that disk; the job then goes on")
    if code == errno.EROFS:
        return Transient(f"{what}: the disk is read-only", "check the disk, then mount it writable")
    if code in (errno.EACCES, errno.EPERM):
        return Transient(
            f"{what}: permission denied", "give the service's user the right to write there"
        )
    if code in (errno.ENOENT, errno.ENOTDIR):
        return Transient(
            f"{what}: its folder is not there",
            "check that the folder exists and that its disk or share is mounted",
        )
    if code == errno.EXDEV:
        return Transient(
            f"{what}: another disk or share is mounted inside that folder",
            "mount it above the configured folder, or configure the inner folder",
        )
    if code in (errno.ENAMETOOLONG, errno.EINVAL):
        return Transient(f"{what}: the disk does not take that name", "give the file a plain name")
    why = os.strerror(code) if code else str(error)
    return Transient(f"{what}: {why}", "check that the disk or share is up; it is tried again")
