"""The file monitor's log on real files, full disks included."""

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.tell.file_monitor import EVENTS, FileMonitor
from pipeline.core.contract import Usage

NOW = 1_795_262_400.25


def lines(path: bytes) -> list[dict[str, Any]]:
    with open(path, "rb") as file:
        return [json.loads(line) for line in file.read().splitlines()]


@contextmanager
def disk_ends_at(size: int) -> Iterator[None]:
    """Files of this process can not grow beyond `size`, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def path(room: bytes) -> bytes:
    return os.path.join(room, b"logs", b"file_monitor.jsonl")


@pytest.fixture
def monitor(path: bytes) -> FileMonitor:
    return FileMonitor(path, max_bytes=1_000_000, keep=3)


def test_a_line_has_every_field(monitor: FileMonitor, path: bytes) -> None:
    """One event is one line with time and zone, names, facts and memory."""
    usage = Usage(rss=1, ram_free=2, vram=3, vram_free=4, gpu=5)
    monitor.write(
        "stage", watch="talks", job=7, file=b"a.wav", now=NOW, usage=usage, stage="vad", seconds=1.5
    )
    (line,) = lines(path)
    assert list(line) == [
        *("time", "event", "watch", "job", "file", "stage", "seconds"),
        *("ram", "ram_free", "vram", "vram_free", "gpu"),
    ]
    assert datetime.fromisoformat(line["time"]).timestamp() == NOW
    assert datetime.fromisoformat(line["time"]).tzinfo is not None
    assert line["time"][19:23] == ".250"
    assert [line[key] for key in ("ram", "ram_free", "vram", "vram_free", "gpu")] == [1, 2, 3, 4, 5]


def test_what_is_unknown_is_null(monitor: FileMonitor, path: bytes) -> None:
    """Every field is there in every line; what can not be known is null."""
    monitor.write("offline", watch="talks", now=NOW, reason="not mounted")
    (line,) = lines(path)
    assert line["job"] is None
    assert line["ram"] is line["vram"] is line["gpu"] is None
    assert line["file"] == ""


@given(
    st.binary(max_size=300).filter(lambda name: b"\0" not in name),
    st.text(st.characters(exclude_categories=())) | st.floats() | st.binary(),
)
def test_any_name_is_one_ascii_line(name: bytes, fact: object) -> None:
    """No name and no fact breaks a line, and the log stays ASCII."""
    with TemporaryDirectory() as folder:
        path = os.path.join(os.fsencode(folder), b"m.jsonl")
        FileMonitor(path, max_bytes=10**6, keep=1).write("seen", file=name, now=NOW, fact=fact)
        with open(path, "rb") as file:
            text = file.read()
    assert text.isascii()
    assert text.count(b"\n") == 1
    assert json.loads(text)["event"] == "seen"


def test_facts_can_not_replace_fields(monitor: FileMonitor, path: bytes) -> None:
    """A fact called like a field of every line is left out."""
    monitor.write("seen", now=NOW, time="never", ram=5)
    (line,) = lines(path)
    assert line["time"].startswith("20")
    assert line["ram"] is None


def test_logs_rotate_by_size(path: bytes) -> None:
    """Beyond its size the log moves on by one number; the oldest goes; no line is lost or cut."""
    monitor = FileMonitor(path, max_bytes=2000, keep=2)
    for number in range(60):
        monitor.write("seen", job=number, now=NOW)
    folder = os.path.dirname(path)
    assert sorted(os.listdir(folder)) == [
        b"file_monitor.jsonl",
        b"file_monitor.jsonl.1",
        b"file_monitor.jsonl.2",
    ]
    kept = [line["job"] for tail in (b".2", b".1", b"") for line in lines(path + tail)]
    assert kept == list(range(kept[0], 60))
    assert all(os.path.getsize(os.path.join(folder, name)) <= 2000 for name in os.listdir(folder))


def test_a_log_that_was_moved_begins_anew(monitor: FileMonitor, path: bytes) -> None:
    """When somebody moves the log away, the next line makes a new one."""
    monitor.write("seen", job=1, now=NOW)
    os.rename(path, path + b".old")
    monitor.write("seen", job=2, now=NOW)
    assert [line["job"] for line in lines(path)] == [2]


def test_half_a_line_is_fenced_off(monitor: FileMonitor, path: bytes) -> None:
    """After a power cut left half a line, the next event still has a line of its own."""
    monitor.write("seen", job=1, now=NOW)
    with open(path, "ab") as file:
        file.write(b'{"time":"20')
    monitor.write("seen", job=2, now=NOW)
    with open(path, "rb") as file:
        assert [json.loads(line)["job"] for line in file.read().splitlines()[::2]] == [1, 2]


def test_a_full_disk_is_told_of_once_and_recovers(
    monitor: FileMonitor, path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full disk no part of a line stays, one warning is logged, and room brings it back."""
    caplog.set_level("INFO", "penstock")
    monitor.write("seen", job=1, now=NOW)
    size = os.path.getsize(path)
    with disk_ends_at(size + 20):
        monitor.write("seen", job=2, now=NOW)
        monitor.write("seen", job=3, now=NOW)
        told = [record.levelname for record in caplog.records]
    assert os.path.getsize(path) == size
    monitor.write("seen", job=4, now=NOW)
    assert [line["job"] for line in lines(path)] == [1, 4]
    assert told == ["WARNING"]
    assert "events missed: 2" in caplog.text
    caplog.clear()
    with disk_ends_at(size):
        monitor.write("seen", job=5, now=NOW)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_log_folder_that_is_none_raises_nothing(room: bytes) -> None:
    """A log path that can not exist yet stops nobody, and works as soon as it can."""
    folder = os.path.join(room, b"logs")
    with open(folder, "wb"):
        pass
    path = os.path.join(folder, b"m.jsonl")
    monitor = FileMonitor(path, max_bytes=1000, keep=1)
    monitor.write("seen", now=NOW)
    os.unlink(folder)
    monitor.write("seen", now=NOW)
    assert len(lines(path)) == 1


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_log_is_left_alone(room: bytes, kind: str) -> None:
    """A link, a pipe or a folder in the log's place is neither followed nor waited for."""
    path, other = os.path.join(room, b"m.jsonl"), os.path.join(room, b"other")
    if kind == "link":
        with open(other, "wb"):
            os.symlink(other, path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        os.mkdir(path)
    FileMonitor(path, max_bytes=1000, keep=1).write("seen", now=NOW)
    assert kind != "link" or os.path.getsize(other) == 0


def test_the_events_are_named_once() -> None:
    """The documented events have no doubles."""
    assert len(set(EVENTS)) == len(EVENTS)
    assert {"seen", "published", "failed", "worker_lost", "disk_ok"} <= set(EVENTS)
