"""Files written whole or not at all, renamed without overwriting, opened without following links.

Every function takes paths as bytes and may be repeated after a crash.
"""

import ctypes
import errno
import hashlib
import os
import stat
from collections.abc import Callable
from typing import BinaryIO

from pipeline.core.errors import BadInput, NoSpace, Transient
from pipeline.core.text import fit_name, shown

COPY_BLOCK = 4 * 1024 * 1024
FULL = (errno.ENOSPC, errno.EDQUOT)
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EMLINK)
_SUFFIX_ROOM = 32  # bytes; what is longer behind the last dot is part of the name
_libc = ctypes.CDLL(None, use_errno=True)


def sync_folder(path: bytes) -> None:
    """Make the entries of a folder durable (a rename is only safe after this)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network and FUSE file systems refuse fsync on a folder; there is nothing better.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EROFS):
            raise
    finally:
        os.close(fd)


def sync_file(path: bytes) -> None:
    """Make a file's bytes durable."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def temp_beside(path: bytes) -> bytes:
    """A short hidden name in the same folder; short, because the real name may have 255 bytes."""
    folder, name = os.path.split(path)
    return os.path.join(folder, b".penstock-%s.part" % hashlib.sha1(name).hexdigest()[:16].encode())  # noqa: S324  # a name, not a secret


def open_part(path: bytes) -> tuple[bytes, int]:
    """Make the temporary file that becomes `path`: its name and an open descriptor.

    What an earlier attempt left is removed and the file is made anew, so that neither a link nor a
    pipe that somebody planted at that name is written to. One writer at a time for each path.
    """
    part = temp_beside(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        remove_if_there(part)
    except IsADirectoryError:  # planted, for ours are files: take another name
        part = os.path.join(
            os.path.dirname(path), b".penstock-%s.part" % os.urandom(8).hex().encode()
        )
    return part, os.open(part, flags, 0o666)


def write_whole(path: bytes, data: bytes, *, durable: bool = True) -> None:
    """Write a file so that readers see the old bytes or the new ones, never a part.

    `durable=False` leaves out the fsyncs: right for status files, which a restart writes anew.
    """
    part, fd = open_part(path)
    try:
        with os.fdopen(fd, "wb") as out:
            out.write(data)
            out.flush()
            if durable:
                os.fsync(out.fileno())
        os.replace(part, path)
    except BaseException:
        remove_if_there(part)
        raise
    if durable:
        sync_folder(os.path.dirname(path) or b".")


def remove_if_there(path: bytes) -> None:
    """Unlink a file that may be gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def rename_new(source: bytes, target: bytes) -> None:
    """Rename without ever overwriting: FileExistsError if the target is there, in one step.

    Uses renameat2(RENAME_NOREPLACE); where the file system does not know it (NFS, FUSE), a hard
    link and an unlink for files. For folders there, rename(2), which replaces an empty folder at
    most; and for files where there are no hard links either, rename(2) right after a look.
    """
    done = _libc.renameat2(_AT_FDCWD, source, _AT_FDCWD, target, _RENAME_NOREPLACE)
    if done == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(code, os.strerror(code), source, None, target)
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    if stat.S_ISDIR(os.lstat(source).st_mode):
        os.rename(source, target)
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.rename(source, target)
    else:
        os.unlink(source)


def numbered(name: bytes, number: int, *, folder: bool) -> bytes:
    """The n-th choice for a taken name: `talk.wav`, `talk (2).wav`, `talk (3).wav` …"""
    if number == 1:
        return name
    head, tail = os.path.split(name)
    stem, suffix = (tail, b"") if folder else os.path.splitext(tail)
    if len(suffix) > _SUFFIX_ROOM:
        stem, suffix = tail, b""
    return os.path.join(head, fit_name(stem, b" (%d)%s" % (number, suffix)))


def make_folders(path: bytes) -> None:
    """Make a folder and its parents, each entry durable in its parent."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path.rstrip(b"/"))
    if parent and parent != path:
        make_folders(parent)
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
        return
    sync_folder(parent or b".")


def open_beneath(root: bytes, name: bytes) -> BinaryIO:
    """Open a regular file below root for reading, following no symbolic link on the way.

    Walks name by name with O_NOFOLLOW, so neither a planted link nor `..` leads out of root.
    Raises BadInput for what is no regular file, Transient where it is gone or can not be read.
    """
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if not parts or b".." in parts or b"\0" in name:
        raise BadInput(f"{shown(name)} does not name a file below its watch")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        here = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Transient(
            f"the folder {shown(root)} can not be opened: {error.strerror}",
            "check that it exists and that its disk or share is mounted",
        ) from error
    try:
        for part in parts[:-1]:
            below = os.open(part, flags | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
        fd = os.open(parts[-1], flags, dir_fd=here)
    except OSError as error:
        raise _open_error(name, error) from error
    finally:
        os.close(here)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BadInput(f"{shown(name)} is not a regular file", "drop a file, not a device or pipe")
    return os.fdopen(fd, "rb", buffering=0)


def _open_error(name: bytes, error: OSError) -> BadInput | Transient:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return BadInput(
            f"{shown(name)} is a symbolic link or lies behind one", "drop the file itself"
        )
    if error.errno == errno.ENXIO:
        return BadInput(f"{shown(name)} is not a regular file", "drop a file, not a socket")
    if error.errno in (errno.EACCES, errno.EPERM):
        return Transient(
            f"{shown(name)} can not be read: permission denied",
            "give the service's user the right to read it",
        )
    return Transient(f"{shown(name)} can not be opened: {error.strerror}")


def copy_whole(
    source: BinaryIO,
    target: bytes,
    *,
    turn: Callable[[int], None] = lambda _done: None,
    mtime_ns: int | None = None,
) -> str:
    """Copy an open file to a new name, durable; returns the sha256 of what was copied.

    For moves across file systems. FileExistsError if the target is there; on any failure nothing
    is left behind. `turn` is called with the bytes copied so far; `mtime_ns` dates the copy.
    """
    try:
        part, fd = open_part(target)
        try:
            digest = _fill(fd, source, turn, mtime_ns)
            rename_new(part, target)
        except BaseException:
            remove_if_there(part)
            raise
    except OSError as error:
        if error.errno in FULL:
            raise NoSpace(f"no room for {shown(target)}", "free some space on that disk") from error
        raise
    sync_folder(os.path.dirname(target) or b".")
    return digest


def _fill(fd: int, source: BinaryIO, turn: Callable[[int], None], mtime_ns: int | None) -> str:
    digest = hashlib.sha256()
    done = 0
    with os.fdopen(fd, "wb", buffering=0) as out:
        while block := source.read(COPY_BLOCK):
            write_all(out, block)
            digest.update(block)
            done += len(block)
            turn(done)
        os.fsync(fd)
        if mtime_ns is not None:  # after the bytes: a share may date a late write anew
            os.utime(fd, ns=(mtime_ns, mtime_ns))
            os.fsync(fd)
    return digest.hexdigest()


def write_all(out: BinaryIO, block: bytes) -> None:
    """Write every byte; a raw file may take only some of them at a time."""
    view = memoryview(block)
    while view:
        view = view[out.write(view) :]


def digest_of(path: bytes) -> str:
    """The sha256 of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb", buffering=0) as source:
        while block := source.read(COPY_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def free_bytes(path: bytes) -> int:
    """Bytes that an unprivileged process can still write on the file system of path."""
    facts = os.statvfs(path)
    return facts.f_bavail * facts.f_frsize
