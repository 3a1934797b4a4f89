"""The learned memory table as people read it: rows for each stage, model and batch size.

The worker alone writes the file (pipeline/gpu/history.py); whoever else asks opens it read-only.
"""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from urllib.parse import quote

import msgspec

from pipeline.core.errors import PenstockError
from pipeline.core.text import human_bytes, shown

APPLICATION_ID = 0x50454D4D  # "PEMM", so that file(1) and we know our own
VERSION = 1  # of the tables; a newer file is another program's business
RUNS_KEPT = 2000  # of each key; older successes are forgotten, an OOM never is
SAFE_SHARE = 0.95  # a batch size that succeeds less often is not recommended
BUSY_S = 1.0

_ROWS = f"""
SELECT stage, model, dtype, device, versions, batch, count(*) AS runs, sum(oom) AS ooms,
       avg(CASE WHEN oom = 0 THEN peak END) AS peak,
       avg(CASE WHEN oom = 0 THEN seconds END) AS seconds
FROM (SELECT *, row_number() OVER (PARTITION BY key_id ORDER BY id DESC) AS age FROM run)
JOIN key ON key.id = key_id
WHERE age <= {RUNS_KEPT}
GROUP BY key_id, batch
ORDER BY stage, model, dtype, device, versions, batch
"""  # noqa: S608  # the number is ours


class BatchStats(msgspec.Struct, frozen=True, kw_only=True):
    """How one batch size did: runs, how many of them ran out of memory, means of the others."""

    batch: int
    runs: int
    ooms: int = 0
    peak: float | None = None  # bytes, mean of the runs that succeeded
    seconds: float | None = None

    @property
    def success(self) -> float:
        """Share of the runs that did not run out of memory, 0 to 1."""
        return 1.0 - self.ooms / self.runs if self.runs else 0.0


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """What was learned in one environment: stage, model, number type, device, versions."""

    stage: str
    model: str
    dtype: str
    device: str
    versions: str
    batches: tuple[BatchStats, ...]  # smallest first

    @property
    def recommended(self) -> int:
        """The batch size that the past speaks for; 1 if it says nothing."""
        return recommended(self.batches)


def recommended(batches: Iterable[BatchStats]) -> int:
    """The largest batch size that nearly always succeeded; 1 if there is none."""
    return max((row.batch for row in batches if row.success >= SAFE_SHARE), default=1)


def line_of(row: BatchStats, advice: int) -> str:
    """One batch size as a log line: `batch 2: 95.0 % success, avg 9.2 GB; recommended 2`."""
    memory = "" if row.peak is None else f", avg {human_bytes(row.peak)}"
    return f"batch {row.batch}: {row.success:.1%} success{memory}; recommended {advice}".replace(
        "%", " %"
    )


def read_learned(path: bytes) -> list[Learned]:
    """The whole table; empty if nothing was learned yet. PenstockError if it can not be read."""
    if not os.path.exists(path):
        return []
    try:
        db = _connect(path)
        try:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise PenstockError(
                    f"{shown(path)} was written by a newer Penstock (schema {version})",
                    "use that version's command, or let this version's worker start a new file",
                )
            return table_of(db)
        finally:
            db.close()
    except sqlite3.Error as error:
        raise PenstockError(
            f"the learned memory {shown(path)} can not be read: {error}",
            "the worker sets a broken file aside at its next start; learning begins anew",
        ) from error


def table_of(db: sqlite3.Connection) -> list[Learned]:
    """The table through an open connection; raises sqlite3.Error."""
    found: dict[tuple[str, ...], list[BatchStats]] = {}
    for row in db.execute(_ROWS):
        found.setdefault(tuple(row[:5]), []).append(_stats(row[5:]))
    return [
        Learned(
            stage=stage,
            model=model,
            dtype=dtype,
            device=device,
            versions=versions,
            batches=tuple(batches),
        )
        for (stage, model, dtype, device, versions), batches in found.items()
    ]


def _stats(row: Sequence[int | float | None]) -> BatchStats:
    batch, runs, ooms, peak, seconds = row
    return BatchStats(
        batch=int(batch or 0), runs=int(runs or 0), ooms=int(ooms or 0), peak=peak, seconds=seconds
    )


def _connect(path: bytes) -> sqlite3.Connection:
    """A read-only connection that has proven that it can read."""
    db = _open(path, "mode=ro")
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        db.close()
        # No worker has the file open, and who asks may not make the -wal and -shm files that a
        # reader needs. Without a -wal, or with an empty one, the file itself is complete.
        if os.path.exists(path + b"-wal") and os.path.getsize(path + b"-wal"):
            raise
        return _open(path, "mode=ro&immutable=1")
    except BaseException:
        db.close()
        raise
    return db


def _open(path: bytes, how: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(path)}?{how}", uri=True, timeout=BUSY_S, isolation_level=None
    )
