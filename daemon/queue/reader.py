"""A look into the ledger for the command line, while the daemon may be writing to it."""

import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self
from urllib.parse import quote

from daemon.queue import rows, schema
from daemon.queue.rows import Event
from daemon.values import Job, State
from pipeline.core.errors import LedgerError, NoSpace
from pipeline.core.text import shown

BUSY_S = 1.0
EVERY = frozenset(State)


class Reader:
    """A read-only connection; open it, ask, close it. Each answer is true for one moment."""

    def __init__(self, path: bytes) -> None:
        """Raises LedgerError if there is no ledger yet, or one of another version."""
        if not os.path.exists(path):
            raise LedgerError(
                f"there is no ledger at {shown(path)} yet",
                "start the service once (penstock run), or point --config at its config file",
            )
        self._path = path
        with self._asking():
            self._db = _connect(path)
            try:
                _check_version(self._db, path)
            except BaseException:
                self._db.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        self._db.close()

    def jobs(
        self, limit: int = 20, states: Collection[State] = EVERY, watch: str | None = None
    ) -> list[Job]:
        """The jobs that changed last, newest first."""
        with self._asking():
            return rows.newest_jobs(self._db, limit, states, watch)

    def visits(self, watch: str, name: bytes) -> list[Job]:
        """Every job about one file (name relative to its watch), newest first."""
        with self._asking():
            return rows.visits(self._db, watch, name)

    def job(self, job_id: int) -> Job | None:
        """The job of that number."""
        with self._asking():
            return rows.one_job(self._db, job_id)

    def history(self, job_id: int) -> list[Event]:
        """What happened to a job, oldest first."""
        with self._asking():
            return rows.history_of(self._db, job_id)

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state; every state is named."""
        with self._asking():
            return rows.count_states(self._db)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # a closed reader: a mistake in this program
        except sqlite3.Error as error:
            said = rows.explained(error, self._path)
            raise (
                LedgerError(said.reason, said.hint) if isinstance(said, NoSpace) else said
            ) from error


def _check_version(db: sqlite3.Connection, path: bytes) -> None:
    known = len(schema.steps())
    version = schema.version_of(db, path, known)
    if version < known:
        raise LedgerError(
            f"the ledger {shown(path)} has schema {version}, not {known}",
            "start the service once: it brings the file up to date",
        )


def _connect(path: bytes) -> sqlite3.Connection:
    """A read-only connection that has proven that it can read."""
    db = _open(path, "mode=ro")
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        db.close()
        # Nobody has the ledger open, and who asks may not make the -wal and -shm files that a
        # reader needs. Without a -wal the file itself is complete.
        if os.path.exists(path + b"-wal"):
            raise
        return _open(path, "mode=ro&immutable=1")
    return db


def _open(path: bytes, how: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(path)}?{how}", uri=True, timeout=BUSY_S, isolation_level=None
    )
