"""The ledger's file: made, migrated, refused, damaged, replaced, on a full or failing disk."""

import contextlib
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.queue import schema
from daemon.queue.ledger import Ledger
from daemon.queue.reader import Reader
from daemon.values import State
from pipeline.core.errors import LedgerError, NoSpace
from tests.queue.util import NOW, new, opened, place

ROOT = Path(__file__).parent.parent.parent


def version_one(path: bytes) -> None:
    """A ledger as version 1 left it, with one job, written by hand."""
    db = sqlite3.connect(path)
    db.executescript(schema.steps()[0])
    db.execute(
        "INSERT INTO job (watch, root, name, size, mtime_ns, ino, mark, recipe, options, priority,"
        " state, admitted_at, updated_at) VALUES ('talks', x'2f', x'ff2e776176', 5, '6', '7',"
        " '5-6-7', 'transcribe', '{}', 0, 'claimed', 1.0, 2.0)"
    )
    db.execute("UPDATE memo SET value = 'cafe' WHERE key = 'uid'")
    db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()


def test_a_version_one_file_is_read(room: bytes) -> None:
    """A ledger of the first version opens with its jobs and its identity."""
    version_one(place(room))
    ledger = opened(room)
    (job,) = ledger.open_jobs()
    assert (job.name, job.state, job.mark) == (b"\xff.wav", State.CLAIMED, "5-6-7")
    assert ledger.uid == "cafe"
    ledger.close()


def test_missing_steps_run_in_order(room: bytes) -> None:
    """An older file gets each missing migration once, and keeps its rows."""
    version_one(place(room))
    later = [
        *schema.steps()[:1],
        "ALTER TABLE job ADD COLUMN colour TEXT NOT NULL DEFAULT 'none';",
        "UPDATE job SET colour = colour || '!';",
    ]
    for _time in range(2):
        db = schema.connect(place(room), later)
        assert db.execute("SELECT colour FROM job").fetchall() == [("none!",)]
        assert db.execute("PRAGMA user_version").fetchone() == (3,)
        db.close()


def test_a_failed_step_changes_nothing(room: bytes) -> None:
    """A migration that fails half way leaves the file at the version before it."""
    version_one(place(room))
    broken = [*schema.steps()[:1], "CREATE TABLE half (x); INSERT INTO nowhere VALUES (1);"]
    with pytest.raises(LedgerError, match="nowhere"):
        schema.connect(place(room), broken)
    db = sqlite3.connect(place(room))
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'half'").fetchone() == (0,)
    db.close()


def test_a_newer_file_is_refused(room: bytes) -> None:
    """A ledger of a newer version is left alone, and the hint says what to install."""
    opened(room).close()
    db = sqlite3.connect(place(room))
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(LedgerError, match="schema 99") as caught:
        opened(room)
    assert "newer Penstock" in caught.value.hint
    with pytest.raises(LedgerError, match="schema 99"):
        Reader(place(room))


def test_a_foreign_database_is_refused(room: bytes) -> None:
    """Another program's database is neither used nor changed."""
    db = sqlite3.connect(place(room))
    db.execute("CREATE TABLE theirs (x)")
    db.commit()
    db.close()
    before = Path(os.fsdecode(place(room))).read_bytes()
    with pytest.raises(LedgerError, match="another program"):
        opened(room)
    assert Path(os.fsdecode(place(room))).read_bytes() == before


def test_an_empty_file_becomes_a_ledger(room: bytes) -> None:
    """A crash right after the file was made (0 bytes) does not stop the next start."""
    Path(os.fsdecode(place(room))).touch()
    ledger = opened(room)
    assert len(ledger.uid) == 32
    ledger.close()


def test_a_missing_folder_is_said(room: bytes) -> None:
    """A ledger in a folder that is not there is a plain error."""
    with pytest.raises(LedgerError, match="can not be opened"):
        Ledger.open(os.path.join(room, b"nowhere", b"ledger.db"), NOW)


@pytest.mark.parametrize("offset", [0, 100, 4096 + 3])
def test_a_damaged_file_is_refused(room: bytes, offset: int) -> None:
    """Flipped bytes stop the start with what to do, and the file is left as it is."""
    ledger = opened(room)
    ledger.admit([new(b"%d" % n) for n in range(300)], NOW)
    ledger.close()
    path = Path(os.fsdecode(place(room)))
    data = bytearray(path.read_bytes())
    data[offset : offset + 64] = bytes(byte ^ 0xA5 for byte in data[offset : offset + 64])
    path.write_bytes(data)
    with pytest.raises(LedgerError, match="damaged") as caught:
        opened(room)
    assert "safe place" in caught.value.hint
    assert path.read_bytes() == data


@pytest.mark.parametrize("suffix", [b"", b"-wal"])
@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_file_taken_away_is_noticed(room: bytes, suffix: bytes, how: str) -> None:
    """A ledger or log deleted or replaced while open is found by the check, and ends its use."""
    ledger = opened(room)
    ledger.check_file()
    target = place(room) + suffix
    if how == "deleted":
        os.unlink(target)
    else:
        shutil.copy(target, target + b".copy")
        os.rename(target + b".copy", target)
    with pytest.raises(LedgerError, match="moved, deleted or replaced"):
        ledger.check_file()
    with pytest.raises(LedgerError, match="moved, deleted or replaced"):
        ledger.remember("a", "b")
    ledger.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[bytes]:
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    yield os.fsencode(folder)
    subprocess.run(["umount", str(folder)], check=True)


def filled(folder: bytes) -> bytes:
    """Fill the disk to its last block; the path of the file that does it."""
    path = os.path.join(folder, b"ballast")
    with open(path, "wb", buffering=0) as out, contextlib.suppress(OSError):
        while out.write(b"x" * 4096):
            pass
    return path


def test_a_full_disk_stops_nothing_for_ever(small_disk: bytes) -> None:
    """A full disk is NoSpace and changes nothing; with room again the same ledger goes on."""
    ledger = opened(small_disk)
    (job,) = ledger.admit([new(b"first")], NOW)
    ballast = filled(small_disk)
    acked = 1
    with contextlib.suppress(NoSpace):
        while acked < 100:
            ledger.admit([new(b"n-%d" % acked)], NOW)
            acked += 1
    assert acked < 100
    for _time in range(3):
        with pytest.raises(NoSpace, match="no room"):
            ledger.admit([new(b"flood-%d" % n) for n in range(500)], NOW)
    assert ledger.counts()[State.QUEUED] == acked  # reading goes on, nothing is half written
    assert ledger.job(job.id) == job
    os.unlink(ballast)
    moved = ledger.move(job, State.CLAIMED, NOW, attempt=1)
    ledger.admit([new(b"after")], NOW)
    ledger.close()
    again = opened(small_disk)
    assert again.job(job.id) == moved
    assert len(again.open_jobs()) == acked + 1
    again.close()


def test_a_start_on_a_full_disk_is_said(small_disk: bytes) -> None:
    """A ledger that can not be made because the disk is full is NoSpace, not damage."""
    filled(small_disk)
    with pytest.raises(NoSpace):
        opened(small_disk)


def test_a_failing_disk_ends_the_use(room: bytes) -> None:
    """After another write error the ledger refuses everything, and its file is whole."""
    ledger = opened(room)
    (job,) = ledger.admit([new()], NOW)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = os.path.getsize(place(room) + b"-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (log, hard))  # writes beyond it fail with EFBIG
    try:
        with pytest.raises(LedgerError, match="disk failed"):
            ledger.admit([new(b"%d" % n) for n in range(500)], NOW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(LedgerError, match="disk failed"):
        ledger.move(job, State.CLAIMED, NOW)
    with pytest.raises(LedgerError, match="disk failed"):
        ledger.open_jobs()
    ledger.close()
    again = opened(room)
    assert again.open_jobs() == [job]
    again.close()


SYNCS = """
import sys
from daemon.queue.ledger import Ledger
from pipeline.core.errors import LedgerError
from tests.queue.util import NOW, new
try:
    ledger = Ledger.open(sys.argv[1].encode(), NOW)
except LedgerError as error:
    sys.exit(print("refused to open", "the disk failed" in error.reason, flush=True))
print("up", flush=True)
for n in range(6):
    try:
        ledger.admit([new(b"%d" % n)], NOW)
        print("acked", n, flush=True)
    except LedgerError as error:
        print("refused", n, "the disk failed" in error.reason, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize(
    ("call", "nth"), [("fsync", 1), ("fsync", 2), *(("fdatasync", nth) for nth in range(1, 18))]
)
def test_a_failed_sync_is_never_repeated(room: bytes, call: str, nth: int) -> None:
    """When the n-th sync fails, nothing more is acknowledged and all that was is there."""
    inject = f"inject={call}:error=EIO:when={nth}"
    script = ["strace", "-f", "-o", "/dev/null", "-e", inject, sys.executable, "-c", SYNCS]
    done = subprocess.run(
        [*script, os.fsdecode(place(room))], cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    acked = [int(line.split()[1]) for line in lines if line.startswith("acked")]
    refused = [line for line in lines if line.startswith("refused")]
    assert acked == list(range(len(acked)))  # once refused, refused for good
    assert all(line.endswith("True") for line in refused)
    assert done.returncode == 0, done.stderr
    if "up" in lines:
        assert len(acked) + len(refused) == 6
    ledger = opened(room)
    names = {job.name for job in ledger.open_jobs()}
    assert {b"%d" % n for n in acked} <= names
    ledger.close()
