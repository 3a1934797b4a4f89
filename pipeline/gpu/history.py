"""The runs that peaks are learned from, in a SQLite file that outlives the worker.

One writer: the worker. A file that is broken, foreign or newer is set aside, never deleted, and
nothing here ever stops work: what can not be written is said in the log and learned again.
"""

import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import msgspec

from pipeline.core.learned import APPLICATION_ID, RUNS_KEPT, VERSION, Learned, table_of
from pipeline.core.text import shown
from pipeline.gpu.values import Features, Key, Observation

log = logging.getLogger("penstock.memory")

T = TypeVar("T")

BUSY_S = 5.0  # a worker that is being killed may still hold the file
WAL_BYTES = 4 * 1024 * 1024
DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_TABLES = """
CREATE TABLE key (
    id INTEGER PRIMARY KEY,
    stage TEXT NOT NULL, model TEXT NOT NULL, dtype TEXT NOT NULL,
    device TEXT NOT NULL, versions TEXT NOT NULL,
    UNIQUE (stage, model, dtype, device, versions)
) STRICT;
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    key_id INTEGER NOT NULL REFERENCES key (id),
    batch INTEGER NOT NULL,
    media_seconds REAL NOT NULL, pixels INTEGER NOT NULL, frames INTEGER NOT NULL,
    peak INTEGER NOT NULL,          -- bytes; what there was to have, if oom
    seconds REAL NOT NULL,
    oom INTEGER NOT NULL
) STRICT;
CREATE INDEX run_of_key ON run (key_id, oom, id);
"""
_INSERT = """
INSERT INTO run (key_id, batch, media_seconds, pixels, frames, peak, seconds, oom)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_FORGET = """
DELETE FROM run WHERE key_id = ? AND oom = 0 AND id <= (
    SELECT id FROM run WHERE key_id = ? AND oom = 0 ORDER BY id DESC LIMIT 1 OFFSET ?)
"""
_LOAD = """
SELECT batch, media_seconds, pixels, frames, peak, seconds, oom FROM run
WHERE key_id = (SELECT id FROM key WHERE (stage, model, dtype, device, versions) = (?, ?, ?, ?, ?))
ORDER BY id
"""


class _Unusable(Exception):
    """The file is not one that this version may write; the text says why."""


class History:
    """The store of observations; thread-safe. `History.open` makes one, `close` lets go."""

    def __init__(self, path: bytes, db: sqlite3.Connection) -> None:
        self._path = path
        self._db = db
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def open(cls, path: bytes) -> "History":
        """The store at `path`, made if missing; in memory only if the disk refuses it."""
        return cls(path, _opened(path))

    def record(self, key: Key, run: Observation) -> bool:
        """Keep one observation; on disk when this returns True, lost (and logged) if False."""

        def write(db: sqlite3.Connection) -> bool:
            db.execute("BEGIN IMMEDIATE")
            try:
                _insert(db, key, run)
                db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk may have rolled it back already
                    db.execute("ROLLBACK")
                raise
            return True

        return self._asked(write, False, f"the run of {key.stage} is not remembered")

    def load(self, key: Key) -> list[Observation]:
        """The last 2 000 runs that succeeded and every OOM, oldest first."""

        def read(db: sqlite3.Connection) -> list[Observation]:
            rows = db.execute(_LOAD, msgspec.structs.astuple(key))
            return [
                Observation(
                    batch=batch,
                    features=Features(seconds=media, pixels=pixels, frames=frames),
                    peak=peak,
                    seconds=seconds,
                    oom=bool(oom),
                )
                for batch, media, pixels, frames, peak, seconds, oom in rows
            ]

        return self._asked(read, [], f"{key.stage} starts without its past")

    def table(self) -> list[Learned]:
        """What was learned, for people."""
        return self._asked(table_of, [], "there is no table")

    def close(self) -> None:
        """Let go of the file; may be called twice. Later calls are answered as if empty."""
        with self._lock:
            self._closed = True
            self._db.close()

    def _asked(self, work: Callable[[sqlite3.Connection], T], otherwise: T, price: str) -> T:
        with self._lock:
            if self._closed:
                return otherwise
            try:
                return work(self._db)
            except (sqlite3.Error, OverflowError) as error:
                log.warning("Learned memory %s: %s; %s", shown(self._path), str(error), price)
                if getattr(error, "sqlite_errorcode", 0) in DAMAGED:
                    self._db.close()
                    _set_aside(self._path, "broken")
                    self._db = _opened(self._path)
                return otherwise


def _insert(db: sqlite3.Connection, key: Key, run: Observation) -> None:
    named = msgspec.structs.astuple(key)
    db.execute(
        "INSERT INTO key (stage, model, dtype, device, versions) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT DO NOTHING",
        named,
    )
    (key_id,) = db.execute(
        "SELECT id FROM key WHERE (stage, model, dtype, device, versions) = (?, ?, ?, ?, ?)", named
    ).fetchone()
    media = run.features
    db.execute(
        _INSERT,
        (
            *(key_id, run.batch, media.seconds, media.pixels, media.frames),
            *(run.peak, run.seconds, int(run.oom)),
        ),
    )
    db.execute(_FORGET, (key_id, key_id, RUNS_KEPT))


def _opened(path: bytes) -> sqlite3.Connection:
    """A connection that works: to the file, to a new file, or to memory."""
    for _try in range(2):
        try:
            return _connect(path)
        except _Unusable as error:
            _set_aside(path, str(error))
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) not in DAMAGED:
                log.warning(
                    "Learned memory %s can not be opened: %s; it lasts until this worker ends",
                    shown(path),
                    str(error),
                )
                break
            _set_aside(path, "broken")
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    db.executescript(_TABLES)
    return db


def _connect(path: bytes) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        version = _version(db)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")  # the OOM must be known after a power cut too
        db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        if version == 0:
            db.executescript(
                f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id = {APPLICATION_ID}; "
                f"PRAGMA user_version = {VERSION}; COMMIT;"
            )
        _check(db)
    except BaseException:
        db.close()
        raise
    return db


def _version(db: sqlite3.Connection) -> int:
    """The file's version, 0 if it is empty; _Unusable if it is not for us."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise _Unusable("foreign")
    if version > VERSION:
        raise _Unusable(f"newer-{version}")
    return int(version)


def _check(db: sqlite3.Connection) -> None:
    if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise _Unusable("broken")


def _set_aside(path: bytes, why: str) -> None:
    """Move the file and its companions to NAME.WHY, over an older one of that name."""
    aside = path + b"." + why.encode()
    for companion in (b"-wal", b"-shm", b""):
        try:
            os.replace(path + companion, aside + companion)
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("%s can not be moved: %s", shown(path + companion), error.strerror)
            return
    log.warning(
        "Learned memory %s is %s; it is kept as %s, and learning begins anew",
        *(shown(path), why, shown(aside)),
    )
