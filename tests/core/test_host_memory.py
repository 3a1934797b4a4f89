"""Host RAM and its cgroup limits, read from trees built here."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.host_memory import (
    MemoryLimit,
    host_free,
    host_total,
    limits_of,
    parse_limits,
    ram_free,
    ram_total,
    room_in,
    size_of,
    stalled,
)

MB = 1024 * 1024
MEMINFO = (
    "MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:    8000 kB\nBad: x kB\n"
)


def mount(point: Path, kind: str, root: str = "/", options: str = "rw") -> str:
    escaped = str(point).replace(" ", "\\040")
    return f"30 24 0:26 {root} {escaped} rw,nosuid shared:9 - {kind} {kind} {options}\n"


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        text = f"{value}\n" if not isinstance(value, dict) else ""
        if isinstance(value, dict):
            text = "".join(f"{key} {number}\n" for key, number in value.items())
        (folder / name.replace("__", ".")).write_text(text)


def rooms(limits: list[MemoryLimit]) -> list[int | None]:
    return [room_in(limit) for limit in limits]


def test_free_ram_is_what_the_kernel_calls_available() -> None:
    """MemAvailable is taken, in bytes; a text without it gives nothing."""
    assert host_free(MEMINFO) == 8000 * 1024
    assert host_free("MemFree: 5 kB\n") is None
    assert host_free("") is None


def test_v2_counts_every_parent(tmp_path: Path) -> None:
    """Under cgroup v2 a parent's lower limit counts, and `max` is no limit."""
    top = tmp_path / "cg"
    group(top / "a.slice/b.service", memory__max="max", memory__current=10 * MB)
    group(top / "a.slice", memory__max=100 * MB, memory__high="max", memory__current=70 * MB)
    limits = parse_limits("0::/a.slice/b.service\n", mount(top, "cgroup2"))
    assert [limit.folder for limit in limits] == [
        f"{top}/a.slice/b.service",
        f"{top}/a.slice",
        f"{top}",
    ]
    assert rooms(limits) == [None, 30 * MB, None]


def test_v2_high_counts_like_max(tmp_path: Path) -> None:
    """memory.high slows a process down, so what is above it is no room."""
    group(tmp_path, memory__max=100 * MB, memory__high=50 * MB, memory__current=30 * MB)
    assert rooms(parse_limits("0::/\n", mount(tmp_path, "cgroup2"))) == [20 * MB]


def test_page_cache_that_nobody_uses_is_room(tmp_path: Path) -> None:
    """A cgroup full of files read once still has room for programs."""
    stat = {"anon": 10 * MB, "inactive_file": 80 * MB, "active_file": 5 * MB}
    group(tmp_path, memory__max=100 * MB, memory__current=95 * MB, memory__stat=stat)
    assert rooms(parse_limits("0::/\n", mount(tmp_path, "cgroup2"))) == [85 * MB]


def test_v1_and_its_number_for_endless(tmp_path: Path) -> None:
    """Under cgroup v1 the memory controller's own path counts; 2^63 or so is no limit."""
    top = tmp_path / "memory"
    group(
        top / "docker/x",
        memory__limit_in_bytes=50 * MB,
        memory__usage_in_bytes=20 * MB,
        memory__stat={"inactive_file": 0, "total_inactive_file": 5 * MB},
    )
    group(top / "docker", memory__limit_in_bytes=2**63 - 4096, memory__usage_in_bytes=MB)
    cgroup = "5:cpu:/other\n4:memory:/docker/x\n"
    mounts = mount(tmp_path / "cpu", "cgroup", options="rw,cpu")
    limits = parse_limits(cgroup, mounts + mount(top, "cgroup", options="rw,memory"))
    assert rooms(limits) == [35 * MB, None, None]


def test_hybrid_looks_at_both(tmp_path: Path) -> None:
    """On a hybrid host v1's limit is found although v2 is mounted too, and the other way round."""
    old, new = tmp_path / "memory", tmp_path / "unified"
    group(old, memory__limit_in_bytes=50 * MB, memory__usage_in_bytes=20 * MB)
    group(new / "s")
    cgroup = "4:memory:/\n1:name=systemd:/s\n0::/s\n"
    mounts = mount(new, "cgroup2") + mount(old, "cgroup", options="rw,memory")
    assert sorted(map(str, rooms(parse_limits(cgroup, mounts)))) == [str(30 * MB), "None", "None"]


@pytest.mark.parametrize(("path", "root"), [("/docker/x", "/docker/x"), ("/", "/"), ("/a", "/b")])
def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path, path: str, root: str) -> None:
    """Where only our part of the tree is mounted, its top is our cgroup."""
    group(tmp_path, memory__max=10 * MB, memory__current=MB)
    limits = parse_limits(f"0::{path}\n", mount(tmp_path, "cgroup2", root))
    assert rooms(limits) == [9 * MB]


def test_a_mount_point_with_a_space(tmp_path: Path) -> None:
    """Escapes in mountinfo are undone."""
    top = tmp_path / "c g"
    group(top, memory__max=10 * MB, memory__current=MB)
    assert rooms(parse_limits("0::/\n", mount(top, "cgroup2"))) == [9 * MB]


def test_over_the_limit_is_no_room_at_all(tmp_path: Path) -> None:
    """Usage beyond the limit counts as zero, not as less."""
    group(tmp_path, memory__max=MB, memory__current=2 * MB)
    assert rooms(parse_limits("0::/\n", mount(tmp_path, "cgroup2"))) == [0]


def test_the_smallest_room_counts(tmp_path: Path) -> None:
    """Free RAM is the least of what the host has and every cgroup allows; None if nobody knows."""
    proc = tmp_path / "proc"
    group(proc, meminfo=MEMINFO.rstrip("\n"))
    group(tmp_path / "cg", memory__max=4 * MB, memory__current=MB)
    group(proc / "self", cgroup="0::/", mountinfo=mount(tmp_path / "cg", "cgroup2").rstrip("\n"))
    assert ram_free([], str(proc)) == 8000 * 1024
    assert ram_free(limits_of(str(proc)), str(proc)) == 3 * MB
    assert limits_of(str(tmp_path)) == []
    assert ram_free([], str(tmp_path)) is None


@given(st.text(), st.text())
def test_no_text_of_the_kernel_is_an_error(first: str, second: str) -> None:
    """Whatever /proc says, reading it does not raise."""
    host_free(first)
    parse_limits(first, f"30 24 0:26 / /cg rw - cgroup2 {second} {first}\n{second}")


def test_this_host_is_understood() -> None:
    """On the machine that runs this test free RAM is known."""
    free = ram_free(limits_of())
    assert free is not None
    assert 0 <= free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_most_that_we_could_have(tmp_path: Path) -> None:
    """The size of our memory is the lowest limit on the way to the root, and at most the host's."""
    proc, top, old = tmp_path / "proc", tmp_path / "unified", tmp_path / "memory"
    group(proc, meminfo=MEMINFO.rstrip("\n"))
    assert ram_total([], str(proc)) == 16000 * 1024 == host_total(MEMINFO)
    group(top / "a/b", memory__max=9 * MB, memory__high="max")
    group(top / "a", memory__max="max", memory__high=7 * MB)
    group(old / "c", memory__limit_in_bytes=8 * MB)
    group(old, memory__limit_in_bytes=2**63 - 4096)
    new = mount(top, "cgroup2")
    both = new + mount(old, "cgroup", options="rw,memory")
    assert ram_total(parse_limits("0::/a/b\n", new), str(proc)) == 7 * MB
    assert ram_total(parse_limits("4:memory:/c\n0::/\n", both), str(proc)) == 8 * MB
    assert ram_total(parse_limits("4:memory:/c\n0::/a/b\n", both), str(proc)) == 7 * MB
    assert ram_total(parse_limits("4:memory:/\n0::/\n", both), str(proc)) == 16000 * 1024
    assert ram_total([], str(tmp_path)) is None


def test_a_limit_above_the_hosts_memory_changes_nothing(tmp_path: Path) -> None:
    """A cgroup that allows more than there is does not make it more."""
    group(tmp_path / "proc", meminfo=MEMINFO.rstrip("\n"))
    group(tmp_path / "cg", memory__max=10**15, memory__current=MB)
    limits = parse_limits("0::/\n", mount(tmp_path / "cg", "cgroup2"))
    assert size_of(limits[0]) == 10**15
    assert ram_total(limits, str(tmp_path / "proc")) == 16000 * 1024


def pressure(avg10: float) -> str:
    line = "avg10={} avg60=0.00 avg300=0.00 total=12"
    return f"some {line.format(99.99)}\nfull {line.format(avg10)}"


def test_stalls_are_read_from_the_innermost_group(tmp_path: Path) -> None:
    """Our own cgroup's stalls count before a parent's and the host's, which may be others'."""
    proc, top = tmp_path / "proc", tmp_path / "cg"
    group(proc / "pressure", memory=pressure(44.5))
    group(top / "a", memory__pressure=pressure(1.25))
    group(top, memory__pressure=pressure(30))
    limits = parse_limits("0::/a\n", mount(top, "cgroup2"))
    assert stalled(limits, str(proc)) == 1.25
    (top / "a/memory.pressure").unlink()
    assert stalled(limits, str(proc)) == 30.0
    assert stalled([], str(proc)) == 44.5


def test_a_kernel_that_counts_no_stalls(tmp_path: Path) -> None:
    """Without PSI the figure is unknown, and so it is where the file says something else."""
    assert stalled([], str(tmp_path)) is None
    group(tmp_path / "pressure", memory="full avg10=lots")
    assert stalled([], str(tmp_path)) is None
