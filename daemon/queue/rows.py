"""Rows of the ledger as values, the questions that daemon and command line share, their errors."""

import sqlite3
from collections.abc import Collection, Mapping
from typing import Any, TypedDict

import msgspec

from daemon.values import Job, NewJob, Rung, Sighting, State
from pipeline.core.contract import Fault, Output, StageReport
from pipeline.core.errors import LedgerError, NoSpace
from pipeline.core.text import shown

TEXT_LIMIT = 4000  # characters of a reason, hint or detail; the rest of a flood is cut

_COLUMNS = (
    "id", "watch", "root", "name", "size", "mtime_ns", "ino", "recipe", "options", "priority",
    "state", "admitted_at", "updated_at", "attempt", "kills", "rung", "target", "original_to",
    "fault", "reason", "hint", "outputs", "reports",
)  # fmt: skip
JOB = ", ".join(_COLUMNS)
_CHANGEABLE = frozenset(
    {"attempt", "kills", "rung", "priority", "options", "target", "original_to", "fault", "reason",
     "hint", "outputs", "reports", "stays"}
)  # fmt: skip

_options: msgspec.json.Decoder[dict[str, object]] = msgspec.json.Decoder(dict[str, object])
_outputs: msgspec.json.Decoder[list[Output]] = msgspec.json.Decoder(list[Output])
_reports: msgspec.json.Decoder[list[StageReport]] = msgspec.json.Decoder(list[StageReport])


class Changes(TypedDict, total=False):
    """What may change in a job's row beside its state."""

    attempt: int
    kills: int
    rung: Rung
    priority: int
    options: dict[str, object]
    target: bytes
    original_to: bytes
    fault: Fault | None
    reason: str
    hint: str
    outputs: list[Output]
    reports: list[StageReport]
    stays: bool  # ended, and the original was left where it lay


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a job's history. `at` is wall clock, seconds; `state` the job's after it."""

    job: int
    at: float
    event: str
    state: State
    detail: str = ""


class NameTaken(LedgerError):
    """The result's name is promised to another job of the watch; nothing was written."""


def plain(text: str) -> str:
    """Text that SQLite takes: half characters (from names that are no text) become escapes."""
    clean = text.encode("utf-8", "backslashreplace").decode()
    return clean if len(clean) <= TEXT_LIMIT else f"{clean[: TEXT_LIMIT - 1]}…"


def new_row(new: NewJob, now: float) -> dict[str, Any]:
    """The columns of a job that is admitted now."""
    seen = new.sighting
    return {
        "watch": new.watch,
        "root": new.root,
        "name": seen.name,
        "size": seen.size,
        "mtime_ns": str(seen.mtime_ns),
        "ino": str(seen.ino),
        "mark": seen.mark,
        "recipe": new.recipe,
        "options": msgspec.json.encode(new.options).decode(),
        "priority": new.priority,
        "state": (State.FAILING if new.fault else State.QUEUED).value,
        "admitted_at": now,
        "updated_at": now,
        "fault": new.fault.value if new.fault else None,
        "reason": plain(new.reason),
        "hint": plain(new.hint),
    }


def changed_columns(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes as column values; LedgerError for a name that is not a job's to change."""
    strange = changes.keys() - _CHANGEABLE
    if strange:
        raise LedgerError(f"a job has nothing called {', '.join(sorted(strange))} to change")
    return {name: _column(name, value) for name, value in changes.items()}


def _column(name: str, value: Any) -> Any:
    if name in ("options", "outputs", "reports"):
        return msgspec.json.encode(value).decode()
    if name in ("reason", "hint"):
        return plain(value)
    if name == "fault":
        return value.value if value else None
    return int(value) if name in ("stays", "rung") else value


def job_of(row: tuple[Any, ...]) -> Job:
    """A row of the columns JOB as a value; LedgerError if it can not be understood."""
    cell = dict(zip(_COLUMNS, row, strict=True))
    try:
        seen = Sighting(
            name=cell.pop("name"),
            size=cell.pop("size"),
            mtime_ns=int(cell.pop("mtime_ns")),
            ino=int(cell.pop("ino")),
        )
        cell["options"] = _options.decode(cell["options"])
        cell["outputs"] = _outputs.decode(cell["outputs"])
        cell["reports"] = _reports.decode(cell["reports"])
        cell["state"] = State(cell["state"])
        cell["rung"] = Rung(cell["rung"])
        cell["fault"] = Fault(cell["fault"]) if cell["fault"] else None
        return Job(sighting=seen, **cell)
    except (ValueError, TypeError) as error:  # msgspec's errors are ValueErrors
        raise LedgerError(
            f"the ledger's row of job {row[0]} can not be understood: {error}",
            "it was written by another version or by hand; use the version that wrote it",
        ) from error


def all_jobs(db: sqlite3.Connection, states: Collection[State]) -> list[Job]:
    """Every job in one of these states, in admission order."""
    marks = ",".join("?" * len(states))
    rows = db.execute(
        f"SELECT {JOB} FROM job WHERE state IN ({marks}) ORDER BY id",  # noqa: S608  # own columns
        [state.value for state in states],
    )
    return [job_of(row) for row in rows]


def newest_jobs(
    db: sqlite3.Connection, limit: int, states: Collection[State], watch: str | None = None
) -> list[Job]:
    """The jobs that changed last, newest first.

    One short walk along the index for each state, so that a ledger of many years answers at once.
    """
    where, values = ("", []) if watch is None else (" AND watch = ?", [watch])
    ask = (
        f"SELECT {JOB} FROM job WHERE state = ?{where} "  # noqa: S608  # own columns
        "ORDER BY updated_at DESC, id DESC LIMIT ?"
    )
    found = [
        job_of(row)
        for state in set(states)
        for row in db.execute(ask, [state.value, *values, max(limit, 0)])
    ]
    found.sort(key=lambda job: (job.updated_at, job.id), reverse=True)
    return found[: max(limit, 0)]


def one_job(db: sqlite3.Connection, job_id: int) -> Job | None:
    """The job of that number."""
    row = db.execute(f"SELECT {JOB} FROM job WHERE id = ?", [job_id]).fetchone()  # noqa: S608
    return None if row is None else job_of(row)


def visits(db: sqlite3.Connection, watch: str, name: bytes) -> list[Job]:
    """Every job about that file, newest first."""
    ask = f"SELECT {JOB} FROM job WHERE watch = ? AND name = ? ORDER BY id DESC"  # noqa: S608
    return [job_of(row) for row in db.execute(ask, [watch, name])]


def history_of(db: sqlite3.Connection, job_id: int) -> list[Event]:
    """What happened to the job, oldest first."""
    rows = db.execute(
        "SELECT job, at, event, state, detail FROM history WHERE job = ? ORDER BY id", [job_id]
    )
    return [
        Event(job=job, at=at, event=event, state=State(state), detail=detail)
        for job, at, event, state, detail in rows
    ]


def count_states(db: sqlite3.Connection) -> dict[State, int]:
    """How many jobs are in each state; every state is named."""
    counts = dict.fromkeys(State, 0)
    for state, number in db.execute("SELECT state, count(*) FROM job GROUP BY state"):
        counts[State(state)] = number
    return counts


def explained(error: sqlite3.Error, path: bytes) -> LedgerError | NoSpace:
    """What an SQLite error means for the ledger at this path and what to do about it."""
    code = getattr(error, "sqlite_errorcode", 0)
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    where = shown(path)
    # The shared index beside the file is grown by a write too, and only a full disk refuses it.
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE):
        return NoSpace(
            f"no room to write the ledger {where}",
            "free some space on the disk of the state folder; work goes on by itself",
        )
    match code & 0xFF:  # the primary code; the rest is detail
        case sqlite3.SQLITE_IOERR:
            return LedgerError(
                f"the disk failed under the ledger {where}: {error} [{name}]",
                "look for disk errors in the kernel log, then start again",
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return damaged(path, f"{error} [{name}]")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return LedgerError(
                f"another program holds the ledger {where}",
                "close whatever else has that file open for writing, then start again",
            )
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return LedgerError(
                f"the ledger {where} can not be opened: {error} [{name}]",
                "give the user who asks the right to its folder and files",
            )
        case _:
            return LedgerError(f"the ledger {where} refused: {error} [{name}]")


def damaged(path: bytes, what: str) -> LedgerError:
    """The error of a ledger whose bytes make no sense."""
    where = shown(path)
    return LedgerError(
        f"the ledger {where} is damaged: {what}",
        f"stop the service, move {where} and the -wal and -shm files beside it to a safe place, "
        "start again: files still in the watched folders are then taken up afresh; "
        "`sqlite3 FILE .recover` shows what the old file still holds",
    )
