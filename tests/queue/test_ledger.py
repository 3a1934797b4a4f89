"""The ledger's calls, one promise at a time, on real files."""

import os
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from daemon.queue.ledger import Ledger
from daemon.queue.rows import TEXT_LIMIT, Changes, NameTaken
from daemon.values import MOVES, OPEN, Job, NewJob, Sighting, State
from pipeline.core.contract import Fault, Output, StageReport, Usage
from pipeline.core.errors import LedgerError
from tests.queue.util import NOW, new, opened, place


@pytest.fixture
def ledger(room: bytes) -> Iterator[Ledger]:
    made = opened(room)
    yield made
    made.close()


def staged(ledger: Ledger, job: Job, target: bytes) -> Job:
    claimed = ledger.move(job, State.CLAIMED, NOW, attempt=job.attempt + 1)
    return ledger.move(claimed, State.STAGED, NOW, target=target)


def test_admitted_jobs_are_as_they_were_settled(ledger: Ledger) -> None:
    """Every field of a new job comes back from the file, in admission order."""
    (first, second) = ledger.admit([new(b"b.wav"), new(b"a.wav")], NOW)
    assert ledger.open_jobs() == [first, second]
    assert (first.id, first.name, first.state, first.admitted_at) == (1, b"b.wav", "queued", NOW)
    assert first.sighting == new(b"b.wav").sighting
    assert first.options == {"language": "en"}
    assert first.root == b"/srv/inbox/talks"


def test_an_open_file_is_not_admitted_twice(ledger: Ledger) -> None:
    """A repeated admission inserts nothing, within one call and across calls."""
    assert len(ledger.admit([new(), new()], NOW)) == 1
    assert ledger.admit([new(), new(b"b.wav")], NOW)[0].name == b"b.wav"
    assert len(ledger.admit([new(watch="films")], NOW)) == 1
    assert ledger.counts()[State.QUEUED] == 3


def test_a_file_proved_unusable_starts_failing(ledger: Ledger) -> None:
    """A new job with a fault goes straight to FAILING and keeps its reason."""
    (job,) = ledger.admit([new(fault=Fault.BAD_INPUT)], NOW)
    assert (job.state, job.fault) == (State.FAILING, Fault.BAD_INPUT)
    assert job.reason.startswith("the header")
    assert job.hint == "copy it again"
    assert ledger.history(job.id)[0].detail == job.reason


@pytest.mark.parametrize(
    "name", [b"bad\xff\xfe.mp4", b"a\nb.wav", b"'; DROP TABLE job;--", b"\x80"]
)
def test_names_are_bytes(ledger: Ledger, name: bytes) -> None:
    """A name that is no text comes back byte for byte."""
    (job,) = ledger.admit([new(name)], NOW)
    held = ledger.move(job, State.CANCELLED, NOW, original_to=b"/x/" + name, stays=True)
    assert held.name == name
    assert held.original_to == b"/x/" + name
    assert ledger.stayed("talks") == {name: job.mark}


def test_numbers_beyond_sixty_three_bits(ledger: Ledger) -> None:
    """A hostile time stamp or a large inode number is kept exactly."""
    far = Sighting(name=b"x", size=2**62, mtime_ns=2**65, ino=2**64 - 1)
    past = Sighting(name=b"y", size=0, mtime_ns=-(2**70), ino=0)
    found = ledger.admit(
        [NewJob(watch="w", root=b"/", sighting=seen, recipe="r") for seen in (far, past)], NOW
    )
    assert [job.sighting for job in found] == [far, past]


def test_text_that_is_no_text(ledger: Ledger) -> None:
    """A reason with half a character or of great length is stored in a safe form."""
    (job,) = ledger.admit([new()], NOW)
    ledger.note(job.id, "note", NOW, os.fsdecode(b"\xff.wav") + "x" * 9000)
    held = ledger.update(job, NOW, event="e", reason="no \udcff")
    assert held.reason == "no \\udcff"
    assert len(ledger.history(job.id)[1].detail) == TEXT_LIMIT


def test_moves_follow_the_table(ledger: Ledger) -> None:
    """Each move of the table is taken and every other one is refused and writes nothing."""
    for number, start in enumerate(State):
        for to in State:
            (job,) = ledger.admit([new(b"%d-%s" % (number, to.encode()))], NOW)
            ledger._db.execute("UPDATE job SET state = ? WHERE id = ?", [start.value, job.id])
            held = ledger.job(job.id)
            assert held is not None
            if to in MOVES[start]:
                assert ledger.move(held, to, NOW + 1).state is to
                assert ledger.history(job.id)[-1].state is to
            else:
                with pytest.raises(LedgerError, match="can not go"):
                    ledger.move(held, to, NOW + 1)
                assert ledger.job(job.id) == held


def test_a_move_carries_its_facts(ledger: Ledger) -> None:
    """What changes beside the state is written with it and read back whole."""
    (job,) = ledger.admit([new()], NOW)
    claimed = ledger.move(job, State.CLAIMED, NOW + 1, attempt=1)
    report = StageReport(
        stage="decode", engine="av", seconds=1.5, usage=Usage(rss=5), facts={"n": 3}
    )
    held = ledger.move(
        claimed, State.STAGED, NOW + 2, event="staged by lane 2", target=b"t\xff",
        outputs=[Output(name=b"\xff.srt", size=3)], reports=[report],
    )  # fmt: skip
    assert held == ledger.job(job.id)
    assert held.updated_at == NOW + 2
    assert (held.attempt, held.target) == (1, b"t\xff")
    assert held.outputs == [Output(name=b"\xff.srt", size=3)]
    assert held.reports == [report]
    assert [(e.at, e.event, e.state) for e in ledger.history(job.id)] == [
        (NOW, "admitted", State.QUEUED),
        (NOW + 1, "claimed", State.CLAIMED),
        (NOW + 2, "staged by lane 2", State.STAGED),
    ]


def test_a_stale_job_moves_nothing(ledger: Ledger) -> None:
    """A job value whose row has moved on is refused."""
    (job,) = ledger.admit([new()], NOW)
    ledger.move(job, State.CLAIMED, NOW)
    with pytest.raises(LedgerError, match="no longer queued"):
        ledger.move(job, State.CANCELLED, NOW)
    with pytest.raises(LedgerError, match="no longer queued"):
        ledger.update(job, NOW, event="e", kills=1)


def test_unknown_changes_are_refused(ledger: Ledger) -> None:
    """A change that is no field of a job writes nothing, whatever it is called."""
    (job,) = ledger.admit([new()], NOW)
    for name in ("state", "id", "watch", "kills = 1, state"):
        changes: dict[str, Any] = {name: 1}
        with pytest.raises(LedgerError, match="nothing called"):
            ledger.update(job, NOW, event="e", **changes)
    assert ledger.job(job.id) == job
    assert len(ledger.history(job.id)) == 1


def test_moves_in_a_group_are_all_or_none(ledger: Ledger) -> None:
    """One illegal move undoes its whole group; a legal group is written in one go."""
    a, b = ledger.admit([new(b"a"), new(b"b")], NOW)
    with pytest.raises(LedgerError):
        ledger.move_all([(a, State.CLAIMED, {"attempt": 1}), (b, State.DONE, {})], NOW)
    assert ledger.open_jobs() == [a, b]
    moved = ledger.move_all([(a, State.CLAIMED, {"attempt": 1}), (b, State.GONE, {})], NOW)
    assert [(job.state, job.attempt) for job in moved] == [(State.CLAIMED, 1), (State.GONE, 0)]


def test_a_target_is_promised_once(ledger: Ledger) -> None:
    """Two results of one watch can not have one name; the second is told and stays as it was."""
    a, b, c = ledger.admit([new(b"a"), new(b"b"), new(b"c", "films")], NOW)
    first = staged(ledger, a, b"talk")
    with pytest.raises(NameTaken, match="talk"):
        staged(ledger, b, b"talk")
    held = ledger.job(b.id)
    assert held is not None
    assert held.state is State.CLAIMED
    assert staged(ledger, c, b"talk").target == b"talk"  # another watch
    published = ledger.move(first, State.PUBLISHED, NOW)
    with pytest.raises(NameTaken):
        ledger.move(held, State.STAGED, NOW, target=b"talk")
    ledger.move(published, State.DONE, NOW)
    assert ledger.move(held, State.STAGED, NOW, target=b"talk").state is State.STAGED


def test_notes_stand_beside_moves(ledger: Ledger) -> None:
    """A note is kept with the job's state, and is nothing for a job that is not there."""
    (job,) = ledger.admit([new()], NOW)
    ledger.note(job.id, "beat", NOW + 3, "half way")
    ledger.note(99, "beat", NOW + 3)
    last = ledger.history(job.id)[-1]
    assert (last.event, last.detail, last.state) == ("beat", "half way", State.QUEUED)
    assert ledger.history(99) == []


def test_recent_is_newest_first(ledger: Ledger) -> None:
    """Ended jobs come back by the time they ended, as many as asked for."""
    jobs = ledger.admit([new(b"%d" % n) for n in range(6)], NOW)
    for at, number in enumerate((3, 1, 5)):
        ledger.move(jobs[number], (State.GONE, State.CANCELLED)[at % 2], NOW + at)
    assert [job.name for job in ledger.recent()] == [b"5", b"1", b"3"]
    assert [job.name for job in ledger.recent(limit=1)] == [b"5"]
    assert [job.name for job in ledger.recent(states=[State.GONE])] == [b"5", b"3"]
    assert ledger.recent(limit=0) == []
    assert ledger.recent(states=[]) == []
    assert len(ledger.recent(states=OPEN)) == 3


def test_a_file_that_stays_is_known(ledger: Ledger) -> None:
    """A kept, failed or cancelled original is remembered with its mark, by watch."""
    a, b, c = ledger.admit([new(b"a"), new(b"b", size=11), new(b"c", "films")], NOW)
    ledger.move(a, State.CANCELLED, NOW, stays=True)
    failing = ledger.move(b, State.FAILING, NOW)
    ledger.move(failing, State.FAILED, NOW, stays=True)
    ledger.move(c, State.CANCELLED, NOW)
    assert ledger.stayed("talks") == {b"a": a.mark, b"b": b.mark}
    assert ledger.stayed("films") == {}
    ledger.forget_stay("talks", b"a")
    ledger.forget_stay("talks", b"never seen")
    assert ledger.stayed("talks") == {b"b": b.mark}


@pytest.mark.parametrize("end", [State.SUPERSEDED, State.GONE])
def test_replaced_and_deleted_files_never_stay(ledger: Ledger, end: State) -> None:
    """Nobody can mark bytes that are no longer there as staying."""
    (job,) = ledger.admit([new()], NOW)
    ledger.move(job, end, NOW, stays=True)
    assert ledger.stayed("talks") == {}


def test_only_the_newest_visit_counts(ledger: Ledger) -> None:
    """A file that comes back with other bytes is no longer known by its old ones."""
    (old,) = ledger.admit([new()], NOW)
    ledger.move(old, State.CANCELLED, NOW, stays=True)
    (fresh,) = ledger.admit([new(size=99)], NOW)
    assert ledger.stayed("talks") == {}
    ledger.move(fresh, State.CANCELLED, NOW, stays=True)
    assert ledger.stayed("talks") == {b"a.wav": fresh.mark}


def test_stays_are_read_from_the_index_alone(ledger: Ledger) -> None:
    """A scan's question about files that stay never touches the wide rows."""
    plan = ledger._db.execute(
        "EXPLAIN QUERY PLAN SELECT name, mark FROM job WHERE watch = ? AND stays", ["talks"]
    ).fetchall()
    assert "COVERING INDEX job_stays" in plan[0][3]


def test_memos_and_identity_outlive_the_connection(room: bytes) -> None:
    """The uid is made once and learned values are there after a restart."""
    first = opened(room)
    first.remember("peak.whisper", "9.2")
    first.remember("peak.whisper", "9.4")
    uid = first.uid
    first.close()
    first.close()
    second = opened(room)
    assert second.uid == uid
    assert len(uid) == 32
    assert second.recall("peak.whisper") == "9.4"
    assert second.recall("nothing") is None
    second.close()


def test_numbers_are_never_used_twice(ledger: Ledger) -> None:
    """A pruned job's number is not given to another file: a result on disk names it."""
    (job,) = ledger.admit([new()], NOW)
    ledger.move(job, State.GONE, NOW)
    while ledger.prune(NOW + 1):
        pass
    assert ledger.job(job.id) is None
    assert ledger.admit([new()], NOW)[0].id == job.id + 1


def test_pruning_keeps_what_is_needed(ledger: Ledger) -> None:
    """Old ended jobs and old history go; open jobs, new ones and files that stay do not."""
    jobs = ledger.admit([new(b"%d" % n) for n in range(4)], NOW)
    ledger.move(jobs[0], State.GONE, NOW)
    ledger.move(jobs[1], State.CANCELLED, NOW, stays=True)
    ledger.move(jobs[2], State.GONE, NOW + 100)
    assert ledger.prune(NOW + 50) > 0
    while ledger.prune(NOW + 50):
        pass
    assert [ledger.job(job.id) is None for job in jobs] == [True, False, False, False]
    assert [e.at for job in jobs for e in ledger.history(job.id)] == [NOW + 100]
    assert ledger.stayed("talks") == {b"1": jobs[1].mark}


def test_ten_thousand_files_at_once(ledger: Ledger) -> None:
    """A drop of 10 000 files is admitted in one call, and its repetition changes nothing."""
    flood = [new(b"clip-%05d.wav" % n) for n in range(10_000)]
    admitted = ledger.admit(flood, NOW)
    assert [job.name for job in admitted] == [item.sighting.name for item in flood]
    assert ledger.admit(flood, NOW) == []
    assert ledger.counts()[State.QUEUED] == 10_000
    ended = [(job, State.GONE, Changes()) for job in admitted]
    assert len(ledger.move_all(ended, NOW)) == 10_000
    calls = 1
    while ledger.prune(NOW + 1):
        calls += 1
    assert calls > 10  # in short steps
    assert ledger.counts()[State.GONE] == 0


def test_a_commit_is_on_disk(ledger: Ledger) -> None:
    """The connection runs with a write-ahead log, full syncs and foreign keys."""
    ask = ledger._db.execute
    assert ask("PRAGMA journal_mode").fetchone() == ("wal",)
    assert ask("PRAGMA synchronous").fetchone() == (2,)
    assert ask("PRAGMA foreign_keys").fetchone() == (1,)


def test_an_impossible_row_is_reported(ledger: Ledger) -> None:
    """A row that this version can not read names its job instead of ending in a traceback."""
    (job,) = ledger.admit([new()], NOW)
    ledger._db.execute("UPDATE job SET outputs = '[{\"size\": 1}]'")
    with pytest.raises(LedgerError, match="job 1 can not be understood"):
        ledger.job(job.id)


def test_another_thread_is_refused(ledger: Ledger) -> None:
    """The connection belongs to the thread that opened it."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool, pytest.raises(sqlite3.ProgrammingError):
        pool.submit(ledger.counts).result()


def test_a_second_writer_is_told_apart(room: bytes, ledger: Ledger) -> None:
    """A ledger that somebody else holds for writing is reported as that."""
    ledger._db.execute("PRAGMA busy_timeout = 20")
    other = sqlite3.connect(place(room), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match="another program holds"):
        ledger.remember("a", "b")
    other.execute("ROLLBACK")
    other.close()
    ledger.remember("a", "b")
