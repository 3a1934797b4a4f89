"""The ledger: what has become of every file, durable before anything follows from it.

One read-write connection, used by one thread. Every call that writes is one transaction, on disk
when it returns (WAL, synchronous=FULL). On NoSpace nothing was written and the ledger stays
usable; after a LedgerError that the disk caused it refuses everything: leave and start again,
because a failed fsync can not be repeated.
"""

import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Unpack

from daemon.queue import rows, schema
from daemon.queue.rows import Changes, Event, NameTaken
from daemon.values import ENDED, MOVES, OPEN, Job, NewJob, State
from pipeline.core.errors import LedgerError
from pipeline.core.text import shown

MAY_STAY = frozenset({State.DONE, State.FAILED, State.CANCELLED})
PRUNE_STEP = 1000  # rows dropped in one transaction, so that no commit takes long
_FATAL = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Ledger:
    """Jobs, their history and learned things in one SQLite file."""

    def __init__(self, db: sqlite3.Connection, path: bytes) -> None:
        self._db = db
        self._path = path
        self._broken: LedgerError | None = None
        self._identity = _identity(path)
        uid = self.recall("uid")
        if not uid:
            raise rows.damaged(path, "it has lost its identity")
        self.uid: str = uid

    @classmethod
    def open(cls, path: bytes, now: float) -> "Ledger":
        """Open the ledger at an absolute path, made if missing.

        The caller holds the state folder's lock and has refused network file systems. Raises
        LedgerError for a file that is damaged, foreign or too new, NoSpace on a full disk.
        """
        db = schema.connect(path)
        try:
            ledger = cls(db, path)
            if ledger.recall("created_at") is None:
                ledger.remember("created_at", repr(now))
        except BaseException:
            db.close()
            raise
        return ledger

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        self._db.close()

    # --- jobs

    def admit(self, new: Sequence[NewJob], now: float) -> list[Job]:
        """Rows for settled files, all in one transaction; returns those that were inserted.

        A file that is open already is left out: a call repeated after a crash does no harm.
        """
        with self._transaction():
            return [job for item in new if (job := self._insert(item, now))]

    def move(
        self, job: Job, to: State, now: float, *, event: str = "", **changes: Unpack[Changes]
    ) -> Job:
        """Bring a job to its next state with what changes beside it; returns it as written.

        LedgerError on an illegal move or a job that is no longer in that state; NameTaken if
        `target` is promised to another job. Nothing is written then.
        """
        with self._transaction():
            return self._move(job, to, now, event, changes)

    def move_all(self, moves: Sequence[tuple[Job, State, Changes]], now: float) -> list[Job]:
        """Several moves in one transaction: all of them or none."""
        with self._transaction():
            return [self._move(job, to, now, "", changes) for job, to, changes in moves]

    def update(self, job: Job, now: float, *, event: str, **changes: Unpack[Changes]) -> Job:
        """Change what stands beside a job's state; returns it as written."""
        with self._transaction():
            return self._write(job, job.state, now, event, changes)

    def note(self, job_id: int, event: str, now: float, detail: str = "") -> None:
        """A line of history without a change; nothing if the job has been pruned meanwhile."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO history (job, at, event, state, detail) "
                "SELECT id, ?, ?, state, ? FROM job WHERE id = ?",
                [now, rows.plain(event), rows.plain(detail), job_id],
            )

    def open_jobs(self) -> list[Job]:
        """Every job that has not ended, in admission order."""
        with self._reading():
            return rows.all_jobs(self._db, OPEN)

    def job(self, job_id: int) -> Job | None:
        """The job of that number."""
        with self._reading():
            return rows.one_job(self._db, job_id)

    def recent(self, limit: int = 20, states: Collection[State] = ENDED) -> list[Job]:
        """The jobs that changed last, newest first."""
        with self._reading():
            return rows.newest_jobs(self._db, limit, states)

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state; every state is named."""
        with self._reading():
            return rows.count_states(self._db)

    def history(self, job_id: int) -> list[Event]:
        """What happened to a job, oldest first."""
        with self._reading():
            return rows.history_of(self._db, job_id)

    # --- files that stay

    def stayed(self, watch: str) -> dict[bytes, str]:
        """Name and mark of each file whose newest visit left it where it lay."""
        with self._reading():
            return dict(
                self._db.execute("SELECT name, mark FROM job WHERE watch = ? AND stays", [watch])
            )

    def forget_stay(self, watch: str, name: bytes) -> None:
        """Let the next scan admit a file again although its bytes are the same."""
        with self._transaction():
            self._clear_stays(watch, name)

    # --- learned things

    def remember(self, key: str, value: str) -> None:
        """Keep a value under a key, instead of what was there."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO memo (key, value) VALUES (?, ?) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                [key, value],
            )

    def recall(self, key: str) -> str | None:
        """The value kept under a key."""
        with self._reading():
            row = self._db.execute("SELECT value FROM memo WHERE key = ?", [key]).fetchone()
        return None if row is None else str(row[0])

    # --- upkeep

    def prune(self, before: float) -> int:
        """Drop one batch of history and ended jobs older than this; returns the rows dropped.

        Files that stay keep their row. Call again until it returns 0; each call is short.
        """
        with self._transaction():
            dropped = self._db.execute(
                "DELETE FROM history WHERE id IN (SELECT id FROM history WHERE at < ? LIMIT ?)",
                [before, PRUNE_STEP],
            ).rowcount
            for state in sorted(ENDED):
                dropped += self._db.execute(
                    "DELETE FROM job WHERE id IN (SELECT id FROM job "
                    "WHERE state = ? AND updated_at < ? AND NOT stays LIMIT ?)",
                    [state.value, before, max(PRUNE_STEP - dropped, 0)],
                ).rowcount
        return dropped

    def check_file(self) -> None:
        """LedgerError if the files at the ledger's path are no longer those that are open."""
        now = _identity(self._path)
        if now != self._identity:
            error = LedgerError(
                f"the ledger {shown(self._path)} was moved, deleted or replaced while it was open",
                "stop the service, put the file (with its -wal) back or move what is there away, "
                "then start again",
            )
            self._broken = error
            raise error

    # --- one transaction

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._reading():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            finally:
                # On some errors SQLite has rolled back by itself already.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        if self._broken:
            raise self._broken
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # a closed ledger or a second thread: a mistake in this program
        except sqlite3.Error as error:
            said = rows.explained(error, self._path)
            if isinstance(said, LedgerError) and _primary(error) in _FATAL:
                self._broken = said
            raise said from error

    def _insert(self, new: NewJob, now: float) -> Job | None:
        row = rows.new_row(new, now)
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        found = self._db.execute(
            f"INSERT INTO job ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING "  # noqa: S608
            f"RETURNING {rows.JOB}",
            list(row.values()),
        ).fetchall()
        if not found:
            return None
        job = rows.job_of(found[0])
        self._clear_stays(job.watch, job.name)  # only the newest visit of a file counts
        self._tell(job, now, "admitted", job.reason)
        return job

    def _move(self, job: Job, to: State, now: float, event: str, changes: Mapping[str, Any]) -> Job:
        if to not in MOVES[job.state]:
            raise LedgerError(f"job {job.label} can not go from {job.state} to {to}")
        if to not in MAY_STAY:  # replaced or deleted bytes stay nowhere
            changes = {name: value for name, value in changes.items() if name != "stays"}
        return self._write(job, to, now, event or to.value, changes)

    def _write(
        self, job: Job, to: State, now: float, event: str, changes: Mapping[str, Any]
    ) -> Job:
        columns = {"state": to.value, "updated_at": now, **rows.changed_columns(changes)}
        assign = ", ".join(f"{name} = ?" for name in columns)
        try:
            found = self._db.execute(
                f"UPDATE job SET {assign} WHERE id = ? AND state = ? RETURNING {rows.JOB}",  # noqa: S608
                [*columns.values(), job.id, job.state.value],
            ).fetchall()
        except sqlite3.IntegrityError as error:
            raise NameTaken(
                f"the name {shown(changes.get('target', job.target))} is promised to another job",
                "choose another name",
            ) from error
        if not found:
            raise LedgerError(f"job {job.label} is no longer {job.state}")
        written = rows.job_of(found[0])
        self._tell(written, now, event, str(changes.get("reason", "")))
        return written

    def _tell(self, job: Job, now: float, event: str, detail: str) -> None:
        self._db.execute(
            "INSERT INTO history (job, at, event, state, detail) VALUES (?, ?, ?, ?, ?)",
            [job.id, now, rows.plain(event), job.state.value, rows.plain(detail)],
        )

    def _clear_stays(self, watch: str, name: bytes) -> None:
        self._db.execute(
            "UPDATE job SET stays = 0 WHERE watch = ? AND name = ? AND stays", [watch, name]
        )


def _primary(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _identity(path: bytes) -> list[tuple[int, int]]:
    """Device and inode of the ledger's file and of its write-ahead log; 0 for what is gone."""
    found = []
    for name in (path, path + b"-wal"):
        try:
            facts = os.stat(name)
            found.append((facts.st_dev, facts.st_ino))
        except OSError:  # gone, or behind a mount that no longer answers: not ours either way
            found.append((0, 0))
    return found
