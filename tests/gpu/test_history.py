"""The store of observations: durable, bounded, and nothing that happens to its file stops work."""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator

import msgspec
import pytest

from pipeline.core.errors import PenstockError
from pipeline.core.learned import line_of, read_learned
from pipeline.gpu.history import History
from pipeline.gpu.values import GIB, Features, Key, Observation

KEY = Key(stage="transcribe", model="small", dtype="float16", device="RTX 3060", versions="torch 2")
OTHER = msgspec.structs.replace(KEY, versions="torch 3")


def run(batch: int = 2, *, peak: int = GIB, oom: bool = False) -> Observation:
    features = Features(seconds=61.5, pixels=1280 * 720, frames=1500)
    return Observation(batch=batch, features=features, peak=peak, seconds=3.25, oom=oom)


@pytest.fixture
def path(room: bytes) -> bytes:
    return os.path.join(room, b"memory.db")


@pytest.fixture
def history(path: bytes) -> Iterator[History]:
    opened = History.open(path)
    yield opened
    opened.close()


def test_survives_a_restart(path: bytes) -> None:
    """What was recorded is there, whole and in order, for the next worker; keys do not mix."""
    first = History.open(path)
    runs = [run(1), run(2, oom=True), run(3, peak=5)]
    assert all(first.record(KEY, each) for each in runs)
    assert first.record(OTHER, run(9))
    first.close()
    second = History.open(path)
    assert second.load(KEY) == runs
    assert second.load(OTHER) == [run(9)]
    assert second.load(msgspec.structs.replace(KEY, stage="vad")) == []
    second.close()


def test_survives_a_kill(path: bytes) -> None:
    """After SIGKILL every observation that was said to be on disk is there."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.gpu.killed_history", os.fsdecode(path)],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    said = [int(child.stdout.readline()) for _line in range(30)]
    child.send_signal(signal.SIGKILL)
    said += [int(line) for line in child.stdout.read().split(b"\n")[:-1]]
    child.stdout.close()
    child.wait()
    history = History.open(path)
    kept = [each.batch for each in history.load(KEY)]
    history.close()
    assert kept[: len(said)] == said
    assert len(kept) <= len(said) + 1


def test_keeps_the_newest_and_every_oom(path: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old successes are forgotten key by key, an OOM never."""
    monkeypatch.setattr("pipeline.gpu.history.RUNS_KEPT", 20)
    history = History.open(path)
    history.record(OTHER, run(1))
    history.record(KEY, run(50, oom=True))
    for batch in range(1, 41):
        history.record(KEY, run(batch))
    kept = history.load(KEY)
    history.close()
    assert kept[0].oom
    assert [each.batch for each in kept[1:]] == list(range(21, 41))


def test_table_for_people(history: History, path: bytes) -> None:
    """The worker and a reader beside it see the same rates, means and recommendation."""
    for number in range(20):
        history.record(KEY, run(2, peak=9_200_000_000, oom=number == 0))
    history.record(KEY, run(4, oom=True))
    history.record(OTHER, run(1))
    table = read_learned(path)
    assert table == history.table()
    newest = next(row for row in table if row.versions == "torch 2")
    two, four = newest.batches
    assert (two.runs, two.ooms, two.peak, two.seconds) == (20, 1, 9.2e9, 3.25)
    assert (four.success, four.peak) == (0.0, None)
    assert newest.recommended == 2
    assert line_of(two, 2) == "batch 2: 95.0 % success, avg 9.2 GB; recommended 2"
    assert line_of(four, 2) == "batch 4: 0.0 % success; recommended 2"


def test_reader_needs_no_worker(path: bytes) -> None:
    """The table can be read before there is a file, and after the worker has gone."""
    assert read_learned(path) == []
    history = History.open(path)
    history.record(KEY, run(1))
    history.close()
    assert len(read_learned(path)) == 1


def test_reader_says_what_is_wrong(path: bytes) -> None:
    """A broken or newer file is a plain error for the reader, which leaves it alone."""
    with open(path, "wb") as file:
        file.write(b"not a database" * 100)
    with pytest.raises(PenstockError, match="can not be read"):
        read_learned(path)
    os.remove(path)
    History.open(path).close()
    _set_version(path, 99)
    with pytest.raises(PenstockError, match="newer"):
        read_learned(path)
    assert not [name for name in os.listdir(os.path.dirname(path)) if b".db." in name]


def _set_version(path: bytes, version: int) -> None:
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {version}")
    db.close()


@pytest.mark.parametrize("damage", ["garbage", "newer", "foreign", "torn"])
def test_bad_file_is_set_aside(path: bytes, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """A file that can not be used is kept under another name, said in the log, and work goes on."""
    history = History.open(path)
    for batch in range(1, 200):
        history.record(KEY, run(batch))
    history.close()
    if damage == "newer":
        _set_version(path, 7)
    elif damage == "foreign":
        os.remove(path)
        db = sqlite3.connect(path)
        db.execute("CREATE TABLE mine (x)")
        db.close()
    else:
        with open(path, "r+b") as file:
            file.seek(0 if damage == "garbage" else 4096)
            file.write(b"\xa5" * 6000)
    again = History.open(path)
    assert again.load(KEY) == []
    assert again.record(KEY, run(3))
    again.close()
    aside = [name for name in os.listdir(os.path.dirname(path)) if b".db." in name]
    assert len(aside) == 1
    assert "learning begins anew" in caplog.text
    third = History.open(path)
    assert third.load(KEY) == [run(3)]
    third.close()


def test_no_folder_no_memory_but_work(room: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Where no file can be made, the observations last as long as the worker."""
    history = History.open(os.path.join(room, b"missing", b"memory.db"))
    assert history.record(KEY, run(1))
    assert history.load(KEY) == [run(1)]
    history.close()
    assert "lasts until this worker ends" in caplog.text


def test_damage_while_running(path: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A file that breaks under a running worker costs what was learned, not the work."""
    history = History.open(path)
    history.record(KEY, run(1))
    history.close()
    db = sqlite3.connect(path)
    rows = [(number,) for number in range(60_000)]  # more than SQLite keeps in memory
    with db:
        db.executemany("INSERT INTO run VALUES (NULL, 1, ?, 1.0, 1, 1, 1, 1.0, 0)", rows)
    db.close()
    history = History.open(path)
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (os.path.getsize(path) - 4096))
    history.load(KEY)
    history.record(KEY, run(1))
    assert history.record(KEY, run(2))
    assert run(2) in history.load(KEY)
    history.close()
    assert "learning begins anew" in caplog.text


@pytest.mark.parametrize(
    "impossible",
    [
        Observation(batch=2**70, features=Features(), peak=1, seconds=1.0),
        Observation(batch=1, features=Features(seconds=float("nan")), peak=1, seconds=1.0),
    ],
)
def test_what_can_not_be_kept(history: History, impossible: Observation) -> None:
    """A figure that the file can not hold is said in the log and changes nothing else."""
    assert not history.record(KEY, impossible)
    assert history.record(KEY, run(1))
    assert history.load(KEY) == [run(1)]


def test_a_locked_file_does_not_stop_work(
    path: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While another process holds the write lock, a run is not remembered, and work goes on."""
    monkeypatch.setattr("pipeline.gpu.history.BUSY_S", 0.05)
    history = History.open(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with caplog.at_level(logging.WARNING):
        assert not history.record(KEY, run(1))
    other.execute("ROLLBACK")
    other.close()
    assert "not remembered" in caplog.text
    assert history.record(KEY, run(2))
    history.close()


def test_many_threads(history: History) -> None:
    """Lanes may record at the same time; nothing is lost."""

    def work(lane: int) -> None:
        for number in range(25):
            history.record(KEY, run(1 + lane * 100 + number))

    threads = [threading.Thread(target=work, args=(lane,)) for lane in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each.batch for each in history.load(KEY)}) == 100


def test_closed_is_empty(history: History) -> None:
    """After close every call is answered as if nothing were there, and close may come twice."""
    history.record(KEY, run(1))
    history.close()
    history.close()
    assert not history.record(KEY, run(2))
    assert history.load(KEY) == []
    assert history.table() == []
