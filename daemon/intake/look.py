"""Looks at files and folders: one path, a whole watch, or one file closely.

Links are never followed, and nothing here blocks on a pipe or a device.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable
from typing import BinaryIO

from daemon.intake.findings import Probe, Scan, Skip
from daemon.intake.ignore import why_ignored, why_not_taken, why_unfinished
from daemon.intake.lease import Writer, writer_of
from daemon.intake.wholeness import check
from daemon.values import Sighting
from pipeline.core.errors import BadInput, Transient
from pipeline.core.files import open_beneath

__all__ = ["Probe", "Scan", "Skip", "look_at", "probe", "scan"]

SKIPS_KEPT = 200
LINK = "a symbolic link; links are never followed"
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # or replaced by something else meanwhile
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = (
    (stat.S_ISLNK, LINK),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe, not a file"),
    (stat.S_ISSOCK, "a socket, not a file"),
    (stat.S_ISCHR, "a device, not a file"),
    (stat.S_ISBLK, "a device, not a file"),
)


def look_at(root: bytes, name: bytes, *, local: bool, takes: frozenset[bytes]) -> Sighting | Skip:
    """What a scan would say about this one name, now."""
    return _look(root, name, local, takes, neighbours=True)


def _look(
    root: bytes, name: bytes, local: bool, takes: frozenset[bytes], *, neighbours: bool
) -> Sighting | Skip:
    parts = name.split(b"/")
    if not name or any(part in (b"", b".", b"..") for part in parts):
        return Skip(name, "not a name below the watched folder")
    path = root
    try:
        for part in parts[:-1]:
            if reason := why_ignored(part):
                return Skip(name, f"in an ignored folder: {reason}")
            path = os.path.join(path, part)
            if stat.S_ISLNK(os.lstat(path).st_mode):
                return Skip(name, f"it lies behind {LINK}")
        partials = _partials(os.listdir(path)) if neighbours else frozenset()
        found = os.lstat(os.path.join(path, parts[-1]))
    except OSError as error:
        return Skip(name, _plain(error))
    reason = why_ignored(parts[-1]) or _why_skipped(parts[-1], found.st_mode, partials, takes)
    return Skip(name, reason) if reason else _sighting(name, found, local)


def _partials(names: Iterable[bytes]) -> frozenset[bytes]:
    """The names that may be the unfinished half of another: temporary ones, so all are ignored.

    Asking about these alone makes the scan of a folder of finished files several times quicker.
    """
    return frozenset(name for name in names if why_ignored(name))


def _why_skipped(
    name: bytes, mode: int, partials: frozenset[bytes], takes: frozenset[bytes]
) -> str:
    if not stat.S_ISREG(mode):
        return next((text for is_kind, text in _KINDS if is_kind(mode)), "not a regular file")
    unfinished = why_unfinished(name, partials) if partials else ""
    return unfinished or why_not_taken(name, takes)


def _sighting(name: bytes, found: os.stat_result, local: bool) -> Sighting:
    ino = found.st_ino if local else 0
    return Sighting(name=name, size=found.st_size, mtime_ns=found.st_mtime_ns, ino=ino)


def _plain(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "there is no such file"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "permission denied: give the service's user the right to read it"
    return f"it can not be read: {error.strerror}"


def scan(
    root: bytes,
    *,
    local: bool,
    takes: frozenset[bytes],
    only: frozenset[bytes] | None = None,
    turn: Callable[[], None] = lambda: None,
) -> Scan:
    """Every file below root that could be taken, or of the names in `only`; walks no links.

    `turn` is called once for each folder. Raises OSError if the root can not be read, or if a
    share fails on the way: then nothing is known.
    """
    walk = _Walk(root, local, takes)
    if only is None:
        walk.everything(turn)
    else:
        for name in sorted(only):
            walk.put(_look(root, name, local, takes, neighbours=False))
            turn()
    return walk.result()


class _Walk:
    """One walk through a watch, gathering what it sees."""

    def __init__(self, root: bytes, local: bool, takes: frozenset[bytes]) -> None:
        self._root = root
        self._local = local
        self._takes = takes
        self._sightings: list[Sighting] = []
        self._skips: list[Skip] = []
        self._skipped = 0
        self._unread: list[bytes] = []
        self._folders = 0

    def result(self) -> Scan:
        """What was seen, files in the order of their arrival."""
        self._sightings.sort(key=lambda sighting: (sighting.mtime_ns, sighting.name))
        return Scan(
            sightings=self._sightings,
            skips=self._skips,
            skipped=self._skipped,
            unread=tuple(self._unread),
            folders=self._folders,
        )

    def put(self, found: Sighting | Skip) -> None:
        """Keep what a look found."""
        if isinstance(found, Sighting):
            self._sightings.append(found)
            return
        self._skipped += 1
        if len(self._skips) < SKIPS_KEPT:
            self._skips.append(found)

    def everything(self, turn: Callable[[], None]) -> None:
        """Walk through root and its real subfolders."""
        waiting = [b""]
        while waiting:
            folder = waiting.pop()
            turn()
            try:
                waiting += self._folder(folder)
            except OSError as error:
                self._unreadable(folder, error)

    def _unreadable(self, folder: bytes, error: OSError) -> None:
        denied = error.errno in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)
        if not folder or not (self._local or denied or error.errno in _GONE):
            raise error
        if error.errno in _GONE:
            return
        self._unread.append(folder)
        self.put(Skip(folder, f"a folder: {_plain(error)}"))

    def _folder(self, folder: bytes) -> list[bytes]:
        """Look at one folder's entries; returns its subfolders."""
        path = os.path.join(self._root, folder) if folder else self._root
        # The root may be a link: whoever wrote the config chose it.
        fd = os.open(path, _FOLDER if folder else _FOLDER & ~os.O_NOFOLLOW)
        try:
            names = [os.fsencode(entry) for entry in os.listdir(fd)]
            partials = _partials(names)
            subfolders = [name for name in names if self._entry(fd, folder, name, partials)]
        finally:
            os.close(fd)
        self._folders += 1
        return [os.path.join(folder, name) for name in subfolders]

    def _entry(self, fd: int, folder: bytes, name: bytes, partials: frozenset[bytes]) -> bool:
        """Look at one entry; True if it is a subfolder to walk into."""
        full = folder + b"/" + name if folder else name
        if name in partials:
            self.put(Skip(full, why_ignored(name)))
            return False
        try:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(found.st_mode):
            return True
        reason = _why_skipped(name, found.st_mode, partials, self._takes)
        self.put(Skip(full, reason) if reason else _sighting(full, found, self._local))
        return False


def probe(root: bytes, sighting_name: bytes, *, local: bool, at: float = 0.0) -> Probe:
    """A close look at one file: its true size, who writes it, whether its container is complete.

    `at` is the monotonic time of the call; it travels with the answer. Never raises OSError.
    """
    try:
        with open_beneath(root, sighting_name) as file:
            return _probe_open(file, root, sighting_name, local, at)
    except BadInput:
        return Probe(sighting=None, at=at)  # a link or a device took its place
    except (Transient, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        return _not_open(root, sighting_name, local, at, cause)


def _probe_open(file: BinaryIO, root: bytes, name: bytes, local: bool, at: float) -> Probe:
    fd = file.fileno()
    size = os.lseek(fd, 0, os.SEEK_END)
    os.lseek(fd, 0, os.SEEK_SET)
    shape = check(file, size)
    writer = writer_of(fd) if local else Writer.UNKNOWN
    # The identity is taken last: a change during the look must not pass for the old state.
    # On SMB the open file's times stay as they were; by path they are asked for anew.
    path = os.path.join(root, name)
    found = os.fstat(fd) if local else os.stat(path, follow_symlinks=False)
    end = os.lseek(fd, 0, os.SEEK_END)  # never stale, unlike a share's st_size
    sighting = Sighting(
        name=name, size=end, mtime_ns=found.st_mtime_ns, ino=found.st_ino if local else 0
    )
    return Probe(sighting=sighting, writer=writer, shape=shape if end == size else None, at=at)


def _not_open(
    root: bytes, name: bytes, local: bool, at: float, cause: BaseException | None
) -> Probe:
    if not isinstance(cause, OSError):
        return Probe(sighting=None, problem="it can not be opened", at=at)
    if cause.errno in _GONE:
        return Probe(sighting=None, at=at)
    try:
        found = os.stat(os.path.join(root, name), follow_symlinks=False)
    except OSError:
        return Probe(sighting=None, problem=_plain(cause), at=at)
    return Probe(sighting=_sighting(name, found, local), problem=_plain(cause), at=at)
