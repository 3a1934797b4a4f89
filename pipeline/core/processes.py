"""Which processes are ours, what RAM they hold, and what numbers the driver knows them by."""

import os
import re
from collections.abc import Collection, Iterable

import psutil

from pipeline.core.host_memory import read_text

PAGE = os.sysconf("SC_PAGE_SIZE")
HOST_SPACE = "pid:[4026531836]"  # the first process namespace, from the kernel's proc_ns.h
PROC_ROOTS = ("/proc", "/host/proc")  # the second is where containers are often given the host's


def resident(pid: int | None = None) -> int | None:
    """Bytes of RAM that one process holds (this one if None); None if it is gone."""
    fields = (read_text(f"/proc/{os.getpid() if pid is None else pid}/statm") or "").split()
    return int(fields[1]) * PAGE if len(fields) > 1 else None


def process_tree() -> set[int]:
    """This process and everything below it."""
    found = {os.getpid()}
    new = set(found)
    while new:
        below = {child for pid in new for child in _children(pid)}
        new = below - found
        found |= new
    return found


def _children(pid: int) -> Iterable[int]:
    # The kernel's own list costs microseconds; psutil looks at every process of the host.
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        lists = [read_text(f"/proc/{pid}/task/{task}/children") for task in tasks]
        if any(text is not None for text in lists):
            return [int(child) for text in lists for child in (text or "").split()]
        return [child.pid for child in psutil.Process(pid).children()]
    except (OSError, psutil.Error):  # it ended meanwhile
        return []


def total(values: Iterable[int | None]) -> int | None:
    """The sum of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def own_space() -> str:
    """This process's own namespace of process numbers, e.g. `pid:[4026531836]`; empty if hidden."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def under_wsl() -> bool:
    """Whether this is Linux inside Windows, where the driver knows no processes of ours."""
    return "microsoft" in (read_text("/proc/sys/kernel/osrelease") or "").lower()


def ours_among(
    listed: Collection[int],
    pids: Collection[int],
    space: str,
    roots: tuple[str, ...] = PROC_ROOTS,
) -> set[int] | None:
    """Which of the driver's process numbers are ours; None if it can not be told.

    The driver knows no namespaces: in a container (`space` is not the host's) it gives the host's
    numbers. They are mapped where the host's /proc is visible. Else they are taken for ours only
    if every one of them exists here and one is ours: then somebody has translated them.
    """
    if space == HOST_SPACE:
        return set(listed) & set(pids)
    mapped = {pid for pid in listed if _number_inside(pid, roots, space) in pids}
    if mapped:
        return mapped
    here = set(listed) & set(pids)
    return here if here and all(os.path.exists(f"/proc/{pid}") for pid in listed) else None


def _number_inside(pid: int, roots: tuple[str, ...], space: str) -> int | None:
    """The number that the host's process `pid` has in our namespace, if it lives in it."""
    for root in roots:
        match = re.search(r"^NSpid:\s+\d.*\s(\d+)$", read_text(f"{root}/{pid}/status") or "", re.M)
        try:  # other containers have a process of the same number
            if match and os.readlink(f"{root}/{pid}/ns/pid") == space:
                return int(match[1])
        except OSError:  # it ended, or is not ours to look at
            continue
    return None
