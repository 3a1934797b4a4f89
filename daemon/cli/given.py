"""What was named on the command line, as files below folders; what can not be taken says why."""

import os
import stat
from collections.abc import Iterable

import msgspec

from daemon.intake.look import scan
from daemon.intake.mounts import find_place
from pipeline.core.errors import BadInput, Transient
from pipeline.core.files import open_beneath
from pipeline.core.recipes import Recipe
from pipeline.core.text import shown, split_suffix


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Something named that can not be processed."""

    path: bytes  # as it was named
    reason: str


class Given(msgspec.Struct, kw_only=True):
    """What is to be processed: names below real folders, each name once."""

    names: dict[bytes, dict[bytes, bytes]] = {}  # folder → name below it → path as it was named
    refused: list[Refused] = []
    folders: list[bytes] = []  # that were named as folders, without links

    @property
    def count(self) -> int:
        """How many files are to be processed."""
        return sum(len(names) for names in self.names.values())


def sort_out(paths: Iterable[bytes], recipe: Recipe) -> Given:
    """Look at everything that was named; folders are walked, files are only looked at."""
    given = Given()
    taken: set[bytes] = set()
    for path in dict.fromkeys(paths):
        try:
            found = os.stat(path) if path.endswith(b"/") else os.lstat(path)
            if stat.S_ISLNK(found.st_mode) and os.path.isdir(path):
                found = os.stat(path)  # a folder may be named by a link, a file may not
        except OSError as error:
            why = "there is no such file" if isinstance(error, FileNotFoundError) else None
            given.refused.append(Refused(path=path, reason=why or f"{error.strerror}"))
            continue
        if stat.S_ISDIR(found.st_mode):
            _folder(given, taken, path, recipe)
        else:
            _file(given, taken, path, recipe)
    return given


def _file(given: Given, taken: set[bytes], path: bytes, recipe: Recipe) -> None:
    root = os.path.realpath(os.path.dirname(path) or b".")
    name = os.path.basename(path)
    reason = _why_not(root, name, recipe)
    if reason:
        given.refused.append(Refused(path=path, reason=reason))
        return
    _take(given, taken, root, name, path)


def _folder(given: Given, taken: set[bytes], path: bytes, recipe: Recipe) -> None:
    root = os.path.realpath(path)
    given.folders.append(root)
    try:
        found = scan(root, local=find_place(root).local, takes=recipe.takes)
    except (OSError, Transient) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        given.refused.append(Refused(path=path, reason=f"the folder can not be read: {why}"))
        return
    for unread in found.unread:
        inner = os.path.join(path, unread)
        given.refused.append(Refused(path=inner, reason="the folder can not be read"))
    for sighting in sorted(found.sightings, key=lambda each: each.name):
        inner = os.path.join(path, sighting.name)
        reason = _unreadable(root, sighting.name)
        if reason:
            given.refused.append(Refused(path=inner, reason=reason))
        else:
            _take(given, taken, root, sighting.name, inner)
    if not found.sightings and not found.unread:
        others = f" ({found.skipped} others are in it)" if found.skipped else ""
        reason = f"the folder holds no file that {recipe.name} takes{others}"
        given.refused.append(Refused(path=path, reason=reason))


def _take(given: Given, taken: set[bytes], root: bytes, name: bytes, path: bytes) -> None:
    real = os.path.join(root, name)
    if real not in taken:  # named twice, or inside a folder that was named as well
        taken.add(real)
        given.names.setdefault(root, {})[name] = path


def _why_not(root: bytes, name: bytes, recipe: Recipe) -> str:
    """Why a file that was named can not be processed; empty if it can."""
    try:
        found = scan(root, local=True, takes=frozenset(), only=frozenset({name}))
    except OSError as error:
        return f"it can not be looked at: {error.strerror}"
    if found.skips:
        return found.skips[0].reason
    suffix = split_suffix(name)[1]
    if recipe.takes and suffix not in recipe.takes:
        kind = f"{shown(suffix)} files" if suffix else "files without a suffix"
        return f"{recipe.name} does not take {kind}"
    return _unreadable(root, name)


def _unreadable(root: bytes, name: bytes) -> str:
    """Asked before the work begins: the service would wait for the rights to come."""
    try:
        open_beneath(root, name).close()
    except (BadInput, Transient) as error:
        return str(error)
    return ""
