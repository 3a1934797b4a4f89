"""Finds folders that lie inside each other in a way that would feed Penstock its own output.

Real paths are compared, so that neither a symbolic link nor `..` hides an overlap.
"""

import os
from collections.abc import Iterator
from itertools import combinations

import msgspec

from daemon.toml_lines import Path
from pipeline.core.text import shown

WATCHED = "path"
_SHARED_BY_WATCHES = ("outbox", "archive", "failed")
_APART = (*_SHARED_BY_WATCHES, "state_dir")  # two different ones of these are never one folder


class Spot(msgspec.Struct, frozen=True, kw_only=True):
    """One configured folder: the key that names it, and where it is."""

    where: Path
    label: str  # `[[watch]] "talks"` or `[daemon]`
    role: str  # the key: path, outbox, archive, failed, state_dir, log_dir, dir
    path: bytes
    real: bytes  # the same folder without symbolic links

    @property
    def text(self) -> str:
        """The folder as people know it, and what it really is if that differs."""
        really = "" if self.path == self.real else f" (really {shown(self.real)})"
        return f"{shown(self.path)}{really}"


def spot(where: Path, label: str, path: bytes) -> Spot:
    """A folder with its real path looked up; it need not exist."""
    role = str(where[-1])
    return Spot(where=where, label=label, role=role, path=path, real=os.path.realpath(path))


def find_overlaps(spots: list[Spot]) -> Iterator[tuple[Path, str]]:
    """Every overlap that is refused, as the key to blame and the reason."""
    watched = [each for each in spots if each.role == WATCHED]
    others = [each for each in spots if each.role != WATCHED]
    yield from _watches_in_each_other(watched)
    for other in others:
        for watch in watched:
            yield from _beside_watch(other, watch)
    for first, second in combinations(others, 2):
        yield from _same_folder(first, second)


def _inside(inner: bytes, outer: bytes) -> bool:
    """Strictly below."""
    return inner != outer and inner.startswith(outer.rstrip(b"/") + b"/")


def _watches_in_each_other(watched: list[Spot]) -> Iterator[tuple[Path, str]]:
    for first, second in combinations(watched, 2):
        if first.real == second.real:
            yield (
                second.where,
                f"{second.label}: path {second.text} is also the path of {first.label}; "
                "a folder can have only one watch",
            )
        for inner, outer in ((first, second), (second, first)):
            if _inside(inner.real, outer.real):
                yield (
                    inner.where,
                    f"{inner.label}: path {inner.text} lies inside the path of {outer.label}, "
                    f"{outer.text}; its files would be taken twice",
                )


def _beside_watch(other: Spot, watch: Spot) -> Iterator[tuple[Path, str]]:
    head = f"{other.label}: {other.role} {other.text}"
    back = "what is written there would come back in as new files; choose a folder outside of it"
    if other.real == watch.real:
        yield other.where, f"{head} is the path of {watch.label} itself; {back}"
    elif _inside(other.real, watch.real):
        yield (
            other.where,
            f"{head} lies inside the path of {watch.label}, {watch.text}; {back}",
        )
    elif other.role in _SHARED_BY_WATCHES and _inside(watch.real, other.real):
        yield (
            watch.where,
            f"{watch.label}: path {watch.text} lies inside the {other.role} of {other.label}, "
            f"{other.text}; what is written there would come in as new files; "
            "choose a folder outside of it",
        )


def _same_folder(first: Spot, second: Spot) -> Iterator[tuple[Path, str]]:
    roles = {first.role, second.role}
    if len(roles) == 2 and roles <= set(_APART) and first.real == second.real:
        whose = "" if first.label == second.label else f" of {first.label}"
        yield (
            second.where,
            f"{second.label}: {second.role} {second.text} is also the {first.role}{whose}; "
            "their files would mix, so give each a folder of its own",
        )
