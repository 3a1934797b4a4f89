"""The ledger's file: created, checked, brought up to date, or refused with a reason."""

import os
import re
import sqlite3
from collections.abc import Sequence

from daemon.queue.rows import damaged, explained
from pipeline.core.errors import LedgerError
from pipeline.core.files import sync_folder
from pipeline.core.text import shown

APPLICATION_ID = 0x50454E53  # "PENS", so that file(1) and we know our own
BUSY_S = 5.0  # how long a write waits for somebody else's lock
WAL_BYTES = 16 * 1024 * 1024  # the write-ahead log is cut back to this after a flood
_SECTION = re.compile(r"^-- version (\d+)\n", re.MULTILINE)


def steps() -> list[str]:
    """The migrations of ledger.sql in order; the n-th leads to version n."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ledger.sql")
    with open(path, encoding="utf-8") as source:
        parts = _SECTION.split(source.read())
    numbers = [int(number) for number in parts[1::2]]
    if numbers != list(range(1, len(numbers) + 1)):
        raise LedgerError(f"the sections of ledger.sql are numbered {numbers}")
    return parts[2::2]


def connect(path: bytes, migrations: Sequence[str] | None = None) -> sqlite3.Connection:
    """Open the ledger for writing, made if missing, checked, at the newest version.

    `synchronous=FULL`: a commit that returned survives a power cut. Raises LedgerError for a
    file that is damaged, foreign or newer than this program, NoSpace on a full disk.
    """
    migrations = steps() if migrations is None else migrations
    try:
        db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    except sqlite3.Error as error:
        raise explained(error, path) from error
    try:
        version = version_of(db, path, len(migrations))
        _check(db, path)
        _configure(db, path)
        _migrate(db, version, migrations)
        db.execute("PRAGMA foreign_keys = ON")
        sync_folder(os.path.dirname(path) or b".")  # the new file's name must last too
    except sqlite3.Error as error:
        db.close()
        raise explained(error, path) from error
    except OSError as error:
        db.close()
        raise LedgerError(
            f"the disk failed under the ledger {shown(path)}: {error.strerror}",
            "look for disk errors in the kernel log, then start again",
        ) from error
    except BaseException:
        db.close()
        raise
    return db


def version_of(db: sqlite3.Connection, path: bytes, known: int) -> int:
    """The file's schema version, 0 for an empty file; LedgerError if it is not for us."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise LedgerError(
            f"{shown(path)} is another program's database, not a ledger",
            "move it away or choose another state_dir",
        )
    if version > known:
        raise LedgerError(
            f"the ledger {shown(path)} has schema {version}; this version knows {known} at most",
            "it was written by a newer Penstock: install that version or a later one again",
        )
    return int(version)


def _check(db: sqlite3.Connection, path: bytes) -> None:
    (answer,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if answer != "ok":
        raise damaged(path, str(answer))


def _configure(db: sqlite3.Connection, path: bytes) -> None:
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise LedgerError(
            f"the file system of {shown(path)} can not hold a ledger (journal mode {mode})",
            "put state_dir on a local disk",
        )
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")


def _migrate(db: sqlite3.Connection, version: int, migrations: Sequence[str]) -> None:
    """Run each missing step with its version mark in one transaction."""
    for number, script in enumerate(migrations[version:], start=version + 1):
        try:
            db.executescript(
                f"BEGIN IMMEDIATE;\n{script}\nPRAGMA application_id = {APPLICATION_ID};"
                f"\nPRAGMA user_version = {number};\nCOMMIT;"
            )
        except sqlite3.Error:
            if db.in_transaction:
                db.rollback()
            raise
