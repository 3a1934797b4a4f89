"""The command line's look into the ledger, while the daemon writes and while it is down."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from daemon.queue import schema
from daemon.queue.reader import Reader
from daemon.values import State
from pipeline.core.errors import LedgerError
from tests.queue.util import NOW, new, opened, place

ROOT = Path(__file__).parent.parent.parent


def test_no_ledger_yet(room: bytes) -> None:
    """Without a ledger the error says so, and none is made."""
    with pytest.raises(LedgerError, match=r"no ledger at .* yet") as caught:
        Reader(place(room))
    assert "start the service" in caught.value.hint
    assert os.listdir(room) == []


def test_it_reads_beside_a_writer(room: bytes) -> None:
    """A reader sees each commit of an open ledger, and its own presence stops no write."""
    ledger = opened(room)
    with Reader(place(room)) as reader:
        a, b = ledger.admit([new(b"a\xff"), new(b"b", "films")], NOW)
        assert reader.jobs() == [b, a]
        assert reader.jobs(watch="films") == [b]
        claimed = ledger.move(a, State.CLAIMED, NOW + 1, attempt=1)
        assert reader.jobs(limit=1) == [claimed]
        assert reader.jobs(states=[State.QUEUED]) == [b]
        assert reader.job(a.id) == claimed
        assert reader.job(99) is None
        assert [event.event for event in reader.history(a.id)] == ["admitted", "claimed"]
        assert reader.counts()[State.CLAIMED] == 1
        ledger.move(claimed, State.GONE, NOW + 2)
        (again,) = ledger.admit([new(b"a\xff")], NOW + 3)
        assert [job.id for job in reader.visits("talks", b"a\xff")] == [again.id, a.id]
    ledger.close()


def test_it_reads_while_a_transaction_is_open(room: bytes) -> None:
    """A writer in the middle of a commit is neither waited for nor half seen."""
    ledger = opened(room)
    (job,) = ledger.admit([new()], NOW)
    ledger._db.execute("BEGIN IMMEDIATE")
    ledger._db.execute("UPDATE job SET kills = 9")
    with Reader(place(room)) as reader:
        assert reader.job(job.id) == job
    ledger._db.execute("ROLLBACK")
    ledger.close()


def test_it_can_not_write(room: bytes) -> None:
    """The reader's connection refuses every write."""
    ledger = opened(room)
    with Reader(place(room)) as reader, pytest.raises(LedgerError), reader._asking():
        reader._db.execute("DELETE FROM job")
    ledger.close()


def test_a_file_that_is_no_ledger(room: bytes) -> None:
    """A text file or another database is refused with a reason."""
    Path(os.fsdecode(place(room))).write_text("not a database at all\n" * 50)
    with pytest.raises(LedgerError, match="damaged"):
        Reader(place(room))


def test_an_older_ledger_is_not_guessed_at(room: bytes) -> None:
    """A ledger that the service has not brought up to date yet says what to do."""
    opened(room).close()
    db = schema.connect(place(room))
    db.execute("PRAGMA user_version = 0")
    db.close()
    with pytest.raises(LedgerError, match="schema 0"):
        Reader(place(room))


def test_a_strange_path(room: bytes) -> None:
    """A state folder whose name holds ?, #, % or no text at all is opened all the same."""
    folder = os.path.join(room, b"a?b#c%20\xff")
    os.mkdir(folder)
    ledger = opened(folder)
    (job,) = ledger.admit([new()], NOW)
    with Reader(place(folder)) as reader:
        assert reader.jobs() == [job]
    ledger.close()


ASK = """
import os, sys
from daemon.queue.reader import Reader
os.setgid(65534); os.setuid(65534)
with Reader(os.fsencode(sys.argv[1])) as reader:
    print([job.id for job in reader.jobs()])
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become another user")
@pytest.mark.parametrize("running", [True, False])
def test_a_user_who_may_only_read(running: bool) -> None:
    """Somebody without the right to write to the folder can ask, with the daemon up or down."""
    folder = os.fsencode(tempfile.mkdtemp())  # tmp_path is closed to others
    os.chmod(folder, 0o755)
    try:
        ledger = opened(folder)
        ledger.admit([new()], NOW)
        if not running:
            ledger.close()
        code = [sys.executable, "-c", ASK, os.fsdecode(place(folder))]
        said = subprocess.run(code, cwd=ROOT, capture_output=True, text=True, check=False)
        ledger.close()
        assert said.stdout == "[1]\n", said.stderr
        assert sorted(os.listdir(folder)) == [b"ledger.db"]
    finally:
        shutil.rmtree(folder)
