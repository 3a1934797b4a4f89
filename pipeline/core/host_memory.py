"""How much host RAM there still is: /proc/meminfo and every cgroup limit on the way to the root.

Reads cgroup v2, v1 and hosts with both; the memory controller may sit in either. Also how long
processes stood still for want of memory (PSI).
"""

import re
from dataclasses import dataclass
from posixpath import normpath, relpath

ENDLESS = 1 << 60  # bytes; v1 says "no limit" with a number near 2^63


@dataclass(frozen=True, kw_only=True)
class MemoryLimit:
    """One cgroup folder that may limit us: where it is and what its files are called there."""

    folder: str
    limits: tuple[str, ...]
    usage: str
    cache: str  # the entry of memory.stat that can be dropped at once


V2 = (("memory.max", "memory.high"), "memory.current", "inactive_file")
V1 = (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")


def host_free(meminfo: str) -> int | None:
    """Bytes that new programs could get without swapping, from the text of /proc/meminfo."""
    return _entry(meminfo, "MemAvailable")


def host_total(meminfo: str) -> int | None:
    """Bytes of RAM that the host has, from the text of /proc/meminfo."""
    return _entry(meminfo, "MemTotal")


def _entry(meminfo: str, name: str) -> int | None:
    match = re.search(rf"^{name}:\s+(\d+) kB$", meminfo, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def limits_of(proc: str = "/proc") -> list[MemoryLimit]:
    """The cgroup folders above this process that can limit its memory, innermost first."""
    cgroup = read_text(f"{proc}/self/cgroup")
    mounts = read_text(f"{proc}/self/mountinfo")
    return parse_limits(cgroup or "", mounts or "")


def parse_limits(cgroup: str, mountinfo: str) -> list[MemoryLimit]:
    """As limits_of, from the texts of /proc/self/cgroup and /proc/self/mountinfo."""
    found: list[MemoryLimit] = []
    for root, point, unified in _mounts(mountinfo):
        path = _path_in(cgroup, unified=unified)
        if path is None:
            continue
        inside = relpath(path, root)
        # Outside the mounted part: a container that sees only its own cgroup, as the mount's root.
        folder = point if inside.startswith("..") else normpath(f"{point}/{inside}")
        names, usage, cache = V2 if unified else V1
        found += [
            MemoryLimit(folder=step, limits=names, usage=usage, cache=cache)
            for step in _upwards(folder, normpath(point))
        ]
    return found


def _mounts(mountinfo: str) -> list[tuple[str, str, bool]]:
    """(root inside the hierarchy, mount point, is v2) of each hierarchy that may limit memory."""
    found: dict[str, tuple[str, str, bool]] = {}
    for line in mountinfo.splitlines():
        before, _dash, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if len(left) < 5 or len(right) < 3:
            continue
        unified = right[0] == "cgroup2"
        if unified or (right[0] == "cgroup" and "memory" in right[2].split(",")):
            point = _unescaped(left[4])
            found.setdefault(right[0], (_unescaped(left[3]), point, unified))
    return list(found.values())


def _path_in(cgroup: str, *, unified: bool) -> str | None:
    for line in cgroup.splitlines():
        number, _colon, rest = line.partition(":")
        controllers, _colon, path = rest.partition(":")
        if path and (number == "0" if unified else "memory" in controllers.split(",")):
            return path
    return None


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _upwards(folder: str, top: str) -> list[str]:
    steps = [folder]
    while folder not in (top, "/"):
        folder = folder.rpartition("/")[0] or "/"
        steps.append(folder)
    return steps


def room_in(limit: MemoryLimit) -> int | None:
    """Bytes left in one cgroup; None if it has no limit or does not say.

    Pages of files that nobody used lately are counted as room: the kernel drops them first, and
    a worker that has read a long video would otherwise look full for ever.
    """
    most = size_of(limit)
    usage = _number(read_text(f"{limit.folder}/{limit.usage}"))
    if most is None or usage is None:
        return None
    stat = read_text(f"{limit.folder}/memory.stat") or ""
    match = re.search(rf"^{limit.cache} (\d+)$", stat, re.MULTILINE)
    used = usage - int(match[1]) if match else usage
    return max(0, most - max(0, used))


def size_of(limit: MemoryLimit) -> int | None:
    """Bytes that one cgroup allows; None if it has no limit or does not say."""
    sizes = [_number(read_text(f"{limit.folder}/{name}")) for name in limit.limits]
    return min((size for size in sizes if size is not None and size < ENDLESS), default=None)


def ram_free(limits: list[MemoryLimit], proc: str = "/proc") -> int | None:
    """Bytes of RAM that this process could still get: what the host has and every cgroup allows."""
    rooms = [host_free(read_text(f"{proc}/meminfo") or ""), *map(room_in, limits)]
    return min((room for room in rooms if room is not None), default=None)


def ram_total(limits: list[MemoryLimit], proc: str = "/proc") -> int | None:
    """Bytes of RAM that this process could have at most: the host's, or its lowest cgroup limit."""
    sizes = [host_total(read_text(f"{proc}/meminfo") or ""), *map(size_of, limits)]
    return min((size for size in sizes if size is not None), default=None)


def stalled(limits: list[MemoryLimit], proc: str = "/proc") -> float | None:
    """How much of the last 10 s our processes all stood still for want of memory, in percent.

    From the innermost cgroup that tells, so that a neighbour's trouble is not taken for ours; else
    from the whole host. None if this kernel does not count stalls.
    """
    files = [f"{limit.folder}/memory.pressure" for limit in limits] + [f"{proc}/pressure/memory"]
    for path in files:
        match = re.search(r"^full avg10=(\d+(?:\.\d+)?)", read_text(path) or "", re.MULTILINE)
        if match:
            return float(match[1])
    return None


def oom_kills(limits: list[MemoryLimit]) -> int | None:
    """How often the kernel has killed for want of memory in our cgroup; None if nobody counts."""
    for limit in limits:
        for name in ("memory.events", "memory.oom_control"):
            text = read_text(f"{limit.folder}/{name}")
            match = re.search(r"^oom_kill (\d+)$", text or "", re.MULTILINE)
            if match:
                return int(match[1])
    return None


def read_text(path: str) -> str | None:
    """A small kernel file, or None if it is not there, not ours to read, or no text."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return None


def _number(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:  # "max"
        return None
