"""Whether a file still is the one that was processed, and its removal only if it is."""

import hashlib
import os
import stat
from typing import BinaryIO

from daemon.publish.folders import look
from daemon.values import Sighting
from pipeline.core.errors import Transient
from pipeline.core.files import numbered, rename_new, sync_folder
from pipeline.core.text import shown


def same_file(path: bytes, sighting: Sighting) -> bool:
    """Whether the regular file at path is the one of the sighting, as far as a look can tell."""
    there = look(path)
    if there is None or not stat.S_ISREG(there.st_mode):
        return False
    size = there.st_size if sighting.ino else _size_on_share(path, there.st_size)
    return _is(there, size, sighting)


def _size_on_share(path: bytes, size: int) -> int:
    # A share's attributes may be seconds old; the end of the opened file is not.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return size
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


def _is(there: os.stat_result, size: int, sighting: Sighting) -> bool:
    return (
        stat.S_ISREG(there.st_mode)
        and size == sighting.size
        and there.st_mtime_ns == sighting.mtime_ns
        and sighting.ino in (0, there.st_ino)
    )


def still(original: BinaryIO, sighting: Sighting) -> bool:
    """Whether an open file still is the one of the sighting."""
    at = original.tell()
    size = original.seek(0, os.SEEK_END)
    original.seek(at)
    return _is(os.fstat(original.fileno()), size, sighting)


# An unlink cannot say "only if it still is this file". So the file first gets a hidden name, is
# looked at there, and is removed or given back. A crash in between is mended by come_back.


def leave(here: bytes, sighting: Sighting, kept: bytes = b"") -> bool:
    """Remove the original if it still is the one of the sighting; else leave what is there.

    If the copy that is `kept` goes away with it, both names were one file: it is given back and
    Transient raised.
    """
    if not same_file(here, sighting):
        return False
    away = hidden(here)
    try:
        rename_new(here, away)
    except FileExistsError:
        raise Transient(
            f"{shown(os.path.basename(away))} is in the way beside {shown(sighting.name)}",
            "remove it",
        ) from None
    if not same_file(away, sighting):
        give_back(away, here)
        return False
    if kept and look(kept) is None:
        give_back(away, here)
        raise Transient(
            f"{shown(sighting.name)} and its copy are one file, seen through two mounts",
            "configure an archive and a failed folder outside the watched folder",
        )
    os.unlink(away)
    sync_folder(os.path.dirname(here))
    return True


def come_back(here: bytes) -> None:
    """Undo a removal that a crash cut short."""
    away = hidden(here)
    found = look(away)
    if found is None or not stat.S_ISREG(found.st_mode):
        return
    there = look(here)
    if there is not None and os.path.samestat(found, there) and found.st_nlink > 1:
        os.unlink(away)  # cut short between the two halves of a rename by hard link
    else:
        give_back(away, here)


def hidden(path: bytes) -> bytes:
    """The name that a file has for the moment between the decision to remove it and its end."""
    folder, name = os.path.split(path)
    mark = hashlib.sha256(name).hexdigest()[:16].encode()
    return os.path.join(folder, b".penstock-%s.going" % mark)


def give_back(taken: bytes, here: bytes) -> None:
    """Rename a file back to its name, or to a numbered one if a newer file has that by now."""
    number = 1
    while True:
        try:
            rename_new(taken, numbered(here, number, folder=False))
        except FileExistsError:
            number += 1
        else:
            return
