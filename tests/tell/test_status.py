"""The status file, written and read back."""

import json
import os
import resource

import msgspec
import pytest

from daemon.tell.status import (
    DiskStatus,
    QueueStatus,
    RecentJob,
    RunningJob,
    Status,
    WatchStatus,
    WorkerStatus,
    is_fresh,
    read_status,
    write_status,
)
from pipeline.core.contract import Usage
from pipeline.core.errors import PenstockError

NOW = 1_795_262_400.0
STATUS = Status(
    version="0.1.0",
    pid=42,
    started_at=NOW - 60,
    updated_at=NOW,
    interval_seconds=2.0,
    seq=30,
    state="ready",
    problems=("the share talks can not be reached",),
    watches=(WatchStatus(name="talks", path="/in", recipe="transcribe", online=True),),
    queue=QueueStatus(size=64, queued=1, running=1),
    running=(RunningJob(job=1, watch="talks", file="a.wav", recipe="transcribe", fraction=0.5),),
    worker=WorkerStatus(pid=43, state="ready", usage=Usage(rss=5)),
    counts={"done": 3},
    recent=(RecentJob(job=2, file="b.wav", watch="talks", state="done", ended_at=NOW),),
    disks=(DiskStatus(path="/out", free_bytes=10**12),),
    rss=40_000_000,
)


@pytest.fixture
def path(room: bytes) -> bytes:
    return os.path.join(room, b"status.json")


def test_what_is_written_is_read(path: bytes) -> None:
    """A status comes back as it was written, and the file says its schema."""
    assert write_status(path, STATUS) == ""
    assert read_status(path) == STATUS
    with open(path, "rb") as file:
        assert json.load(file)["schema"] == 1


@pytest.mark.parametrize("name", ["x\n<0>PANIC", "bad\udcff.wav", "\x1b[2J\u202egpj", "a" * 9000])
def test_any_name_leaves_the_file_readable(path: bytes, name: str) -> None:
    """A hostile name that nobody escaped is escaped here, and the file stays valid JSON."""
    running = RunningJob(job=1, watch="talks", file=name, recipe="transcribe")
    assert write_status(path, msgspec.structs.replace(STATUS, running=(running,))) == ""
    file = read_status(path).running[0].file
    assert file.isprintable()
    assert len(file) <= 4096


def test_a_full_disk_leaves_the_old_file(path: bytes, room: bytes) -> None:
    """When there is no room the old status stays whole, and the reason is returned."""
    write_status(path, STATUS)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
    try:
        reason = write_status(path, msgspec.structs.replace(STATUS, seq=31))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "status.json can not be written" in reason
    assert read_status(path).seq == 30
    assert os.listdir(room) == [b"status.json"]


def test_no_file_is_a_plain_error(path: bytes) -> None:
    """Without a status file the error says that no daemon has run, and how to start one."""
    with pytest.raises(PenstockError) as caught:
        read_status(path)
    assert "no daemon has run" in caught.value.reason
    assert "penstock run" in caught.value.hint


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"schema": 1}', b'{"schema": "x"}', b"\xff"])
def test_a_broken_file_is_a_plain_error(path: bytes, text: bytes) -> None:
    """A status file that is no status is refused with a hint."""
    with open(path, "wb") as file:
        file.write(text)
    with pytest.raises(PenstockError, match="can not be understood"):
        read_status(path)


def test_another_schema_is_refused_and_new_fields_are_not(path: bytes) -> None:
    """A newer schema number is refused in plain words; a field more in ours is ignored."""
    write_status(path, STATUS)
    with open(path, "rb") as file:
        fields = json.load(file)
    for schema, readable in ((1, True), (2, False)):
        with open(path, "w", encoding="utf-8") as file:
            json.dump(fields | {"schema": schema, "news": [1]}, file)
        if readable:
            assert read_status(path) == STATUS
        else:
            with pytest.raises(PenstockError, match="has schema 2, this command reads schema 1"):
                read_status(path)


@pytest.mark.parametrize(
    ("age", "fresh"), [(0, True), (6, True), (6.1, False), (86400, False), (-2, True), (-60, False)]
)
def test_a_status_ages(age: float, fresh: bool) -> None:
    """A status counts for three intervals, also after the clock was set back."""
    assert is_fresh(STATUS, NOW + age) is fresh


def test_unknown_numbers_are_null(path: bytes) -> None:
    """What could not be measured is written as null and read as None."""
    disks = (DiskStatus(path="/out", free_bytes=None, low=True),)
    write_status(path, msgspec.structs.replace(STATUS, disks=disks, rss=None))
    assert read_status(path).disks == disks
