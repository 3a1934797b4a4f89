"""Sweeps away what kills left behind: staging folders, scratch folders, temporary files."""

import os
import re
import stat
import time
from collections.abc import Collection

from daemon.publish.folders import held, look, remove_any
from daemon.publish.steps import SHELF

FOREIGN_DAYS = 7.0  # another service's staging folder counts as abandoned after so long
_STAGING = re.compile(rb"([0-9]{6,})-([0-9a-zA-Z]{1,8})")
_PART = re.compile(rb"\.penstock-[0-9a-f]{16}\.part")


def sweep_staging(
    outbox: bytes, uid: str, keep: Collection[str], *, now: float | None = None
) -> list[bytes]:
    """Remove this ledger's staging folders whose job label is not in `keep`; returns their paths.

    Another ledger's are removed after FOREIGN_DAYS without a change. `now` is wall clock, seconds;
    None asks the clock. Not while a worker may be making a staging folder.
    """
    before = (time.time() if now is None else now) - FOREIGN_DAYS * 86400
    gone: list[bytes] = []
    try:
        with held(outbox, SHELF) as shelf:
            for name in sorted(os.listdir(shelf)):
                if _may_go(os.path.join(shelf, name), uid, keep, before):
                    _remove(os.path.join(shelf, name), os.path.join(outbox, SHELF, name), gone)
    except OSError:  # there is none, or the share is away: next time
        return gone
    tidy_shelf(outbox)
    return gone


def tidy_shelf(outbox: bytes) -> None:
    """Take the staging folders' own folder away if nothing is in it."""
    try:
        with held(outbox) as here:
            os.rmdir(os.path.join(here, SHELF))
    except OSError:  # there is none, it is in use, or the share is away
        return


def _may_go(path: bytes, uid: str, keep: Collection[str], before: float) -> bool:
    form = _STAGING.fullmatch(os.path.basename(path))
    if form is None:
        return False
    if form[2] == uid[:8].encode():
        return form[1].decode() not in keep
    return _last_change(path) < before


def _last_change(path: bytes) -> float:
    """The newest change of a folder and of what lies directly in it, wall clock, seconds."""
    found = [look(path)]
    if found[0] is not None and stat.S_ISDIR(found[0].st_mode):
        found += [look(os.path.join(path, name)) for name in os.listdir(path)]
    return max((max(at.st_mtime, at.st_ctime) for at in found if at), default=0.0)


def _remove(path: bytes, known_as: bytes, gone: list[bytes]) -> None:
    try:
        remove_any(path)
    except OSError:  # in use or not ours to remove: it does no harm, next time
        return
    gone.append(known_as)


def sweep_scratch(scratch_root: bytes, keep: Collection[str]) -> list[bytes]:
    """Remove the scratch folders whose name (a job label) is not in `keep`; returns their paths."""
    gone: list[bytes] = []
    try:
        with held(scratch_root) as here:
            for name in sorted(os.listdir(here)):
                if os.fsdecode(name) not in keep:
                    _remove(os.path.join(here, name), os.path.join(scratch_root, name), gone)
    except OSError:
        return gone
    return gone


def sweep_parts(folder: bytes, older_than: float, now: float) -> list[bytes]:
    """Remove temporary files that nobody has touched for `older_than` seconds; not in subfolders.

    `now` is wall clock, in seconds. Returns the paths of what was removed.
    """
    gone: list[bytes] = []
    try:
        with held(folder) as here:
            for name in sorted(os.listdir(here)):
                path = os.path.join(here, name)
                there = look(path) if _PART.fullmatch(name) else None
                if there is None or not stat.S_ISREG(there.st_mode):
                    continue
                # A part may carry its original's old date already; its ctime can not be set.
                if max(there.st_mtime, there.st_ctime) < now - older_than:
                    _remove(path, os.path.join(folder, name), gone)
    except OSError:
        return gone
    return gone
