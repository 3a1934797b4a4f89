"""Where an original goes when its job has ended: moved, deleted or left, and never lost.

Every move may be taken again after a crash at any point, and overwrites nothing.
"""

import errno
import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass

from daemon.publish.folders import beside, free_name, held, look, split_root, trouble
from daemon.publish.identity import come_back, give_back, leave, still
from daemon.publish.identity import same_file as same_file
from daemon.values import Sighting
from pipeline.core.errors import BadInput, JobError, NoSpace, Transient
from pipeline.core.files import (
    copy_whole,
    digest_of,
    open_beneath,
    remove_if_there,
    rename_new,
    sync_folder,
    temp_beside,
)
from pipeline.core.text import shown

TICKET = b".penstock.toml"
_COARSE_NS = 2_000_000_000  # the coarsest dates that a file system keeps (FAT)


@dataclass(frozen=True)
class Moved:
    """The original lies at `to` (absolute); empty if it was deleted."""

    to: bytes


@dataclass(frozen=True)
class Changed:
    """The file at that name is not the one that was processed; it was left alone."""


@dataclass(frozen=True)
class Missing:
    """There is no original, neither at its name nor at its new place."""


def choose_place(folder: bytes, name: bytes) -> bytes:
    """A free absolute name below the archive or failed folder, mirroring the drop's subfolders."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".", b"..")]
    try:
        return os.path.join(folder, free_name(folder, b"/".join(parts), folder=False))
    except OSError as error:
        raise trouble(error, f"{shown(name)} can not be looked up in {shown(folder)}") from error


def move_original(
    source: bytes, sighting: Sighting, place: bytes, sha256: str | None = None
) -> Moved | Changed | Missing:
    """Bring the original to its place (from choose_place), by a rename or a verified copy.

    FileExistsError: another file has that name, choose again. NoSpace, Transient: a folder
    refuses; try later. If `sha256` is given, a file of other bytes counts as Changed (looked at
    only where the bytes are copied).
    """
    what = f"{shown(sighting.name)} can not be moved to {shown(place)}"
    with ExitStack() as stack:
        try:
            here = _hold_source(stack, source, sighting.name)
            unchanged = here is not None and same_file(here, sighting)
            there = _hold_place(stack, place, sighting.name, make=unchanged)
            if here is None or look(here) is None:
                return Moved(place) if there and _has_arrived(there, sighting) else Missing()
            if there is None or not unchanged:
                return Changed()
            return _move(here, there, place, sighting, sha256)
        except FileExistsError as error:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), place) from error
        except NoSpace as error:
            raise NoSpace(f"{what}: there is no room left", error.hint) from error
        except OSError as error:
            raise trouble(error, what) from error


def delete_original(source: bytes, sighting: Sighting) -> Moved | Changed | Missing:
    """Remove the original for good, if it still is the one that was processed."""
    with ExitStack() as stack:
        try:
            here = _hold_source(stack, source, sighting.name)
            if here is None or look(here) is None:
                return Missing()
            return Moved(b"") if leave(here, sighting) else Changed()
        except OSError as error:
            raise trouble(error, f"{shown(sighting.name)} can not be deleted") from error


def _hold_source(stack: ExitStack, source: bytes, name: bytes) -> bytes | None:
    """The source below a held folder, or None if its folder is gone or was replaced by a link."""
    root, folder, last = split_root(source, name)
    with held(root):  # a watch that is gone is trouble; a folder that is gone below it is not
        pass
    try:
        here = os.path.join(stack.enter_context(held(root, folder)), last)
    except (FileNotFoundError, NotADirectoryError):
        return None
    come_back(here)
    return here


def _hold_place(stack: ExitStack, place: bytes, name: bytes, *, make: bool) -> bytes | None:
    root, folder, last = split_root(place, name)
    with held(root):  # as for the watch: its subfolders may be missing, not the folder itself
        pass
    try:
        return os.path.join(stack.enter_context(held(root, folder, make=make)), last)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _move(
    here: bytes, there: bytes, place: bytes, sighting: Sighting, sha256: str | None
) -> Moved | Changed:
    if look(there) is not None:  # a crash came between the copy and the removal, or a stranger
        if not _same_bytes(here, there, sha256):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), place)
        remove_if_there(temp_beside(there))
        return Moved(place) if leave(here, sighting, kept=there) else Changed()
    try:
        rename_new(here, there)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return _move_by_copy(here, there, place, sighting, sha256)
    if not same_file(there, sighting):  # a newer file came between the look and the rename
        give_back(there, here)
        return Changed()
    sync_folder(os.path.dirname(there))
    sync_folder(os.path.dirname(here))
    return Moved(place)


def _has_arrived(there: bytes, sighting: Sighting) -> bool:
    found = look(there)
    if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != sighting.size:
        return False
    if abs(found.st_mtime_ns - sighting.mtime_ns) > _COARSE_NS:
        return False
    sync_folder(os.path.dirname(there))  # a crash may have come before this
    return True


def _move_by_copy(
    here: bytes, there: bytes, place: bytes, sighting: Sighting, sha256: str | None
) -> Moved | Changed:
    try:
        original = open_beneath(*os.path.split(here))
    except BadInput:
        return Changed()
    with original:
        if not still(original, sighting):
            return Changed()
        copied = copy_whole(original, there, mtime_ns=sighting.mtime_ns)
        whole = still(original, sighting) and copied == (sha256 or copied)
    if not whole:  # it changed while it was read
        remove_if_there(there)
        return Changed()
    if _digest_on_disk(there) != copied:
        remove_if_there(there)
        raise Transient(
            f"the copy of {shown(sighting.name)} at {shown(place)} reads back with other bytes",
            "check that disk; the original was left where it is",
        )
    return Moved(place) if leave(here, sighting, kept=there) else Changed()


def _digest_on_disk(path: bytes) -> str:
    """The digest as the disk gives it, where the kernel can be made to forget what it holds."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
    return digest_of(path)


def _same_bytes(here: bytes, there: bytes, sha256: str | None) -> bool:
    one, two = os.lstat(here), os.lstat(there)
    if not stat.S_ISREG(two.st_mode) or one.st_size != two.st_size:
        return False
    if (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino):
        return one.st_nlink > 1  # two names of it; with one link, one file seen through two mounts
    digest = digest_of(here)
    return digest == (sha256 or digest) and _digest_on_disk(there) == digest


def find_ticket(source: bytes) -> bytes | None:
    """The ticket beside a drop: `talk.wav.penstock.toml`, else `talk.penstock.toml`; or None."""
    for stem in (source, os.path.splitext(source)[0]):
        try:
            if stat.S_ISREG(os.lstat(stem + TICKET).st_mode):
                return stem + TICKET
        except OSError:  # not there, or the name is too long to be one
            continue
    return None


def move_ticket(ticket: bytes, place_of_original: bytes) -> bytes | None:
    """Bring a ticket beside its moved original as `NAME.penstock.toml`; None if it stays.

    A ticket is worth no failed job: what can not be moved, or would overwrite, is left alone.
    """
    target = beside(place_of_original, TICKET)
    try:
        there = look(ticket)
        if there is None or not stat.S_ISREG(there.st_mode):
            return None
        try:
            rename_new(ticket, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                return None
            with open_beneath(*os.path.split(ticket)) as source:
                copy_whole(source, target, mtime_ns=there.st_mtime_ns)
            os.unlink(ticket)
        return target
    except (OSError, JobError):
        return None
