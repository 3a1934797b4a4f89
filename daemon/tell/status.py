"""The status file: what the daemon is doing, as one versioned JSON document written whole.

Fields are only ever added within one schema number; a reader ignores what it does not know.
Times are wall-clock seconds, sizes bytes, names and paths escaped as by shown().
"""

import os
from typing import Any, Literal

import msgspec

from daemon.tell.harmless import harmless
from pipeline.core.contract import Usage
from pipeline.core.errors import PenstockError
from pipeline.core.files import write_whole
from pipeline.core.text import shown

SCHEMA = 1
QUEUED_SHOWN = 50  # entries of Status.queued
RECENT_SHOWN = 20  # entries of Status.recent
STALE_INTERVALS = 3  # missed writes after which the daemon counts as dead

ServiceState = Literal["starting", "ready", "paused", "degraded", "draining", "stopped"]


class WatchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One watched folder."""

    name: str
    path: str
    recipe: str
    online: bool
    reason: str = ""  # why it is offline
    mode: str = ""  # how files are found: "events" or "scan"
    local: bool = True  # false on a network share
    waiting: int = 0  # files that are still settling
    settled_waiting: int = 0  # settled files for which the queue has no room
    last_scan_at: float | None = None
    files: int = 0  # seen by the last scan
    skipped: int = 0  # of these, ignored by rule
    window_seconds: float = 0.0  # how long a file must be quiet


class QueueStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The bounded queue."""

    size: int
    queued: int = 0
    running: int = 0
    waiting_outside: int = 0  # settled files that wait where they lie
    held: str = ""  # why nothing is admitted
    oldest_seconds: float | None = None  # how long the oldest queued job has waited


class RunningJob(msgspec.Struct, frozen=True, kw_only=True):
    """One job in the worker."""

    job: int
    watch: str
    file: str
    recipe: str
    stage: str = ""
    fraction: float | None = None  # of the stage, 0 to 1
    overall: float | None = None  # of the job, 0 to 1
    seconds: float = 0.0  # since this attempt began
    eta_seconds: float | None = None
    attempt: int = 1


class QueuedJob(msgspec.Struct, frozen=True, kw_only=True):
    """One job in the queue; position 1 is next."""

    job: int
    watch: str
    file: str
    position: int
    attempt: int = 0


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The worker process."""

    pid: int | None = None
    state: str = ""
    restarts: int = 0
    last_exit: str = ""
    device: str = ""
    card: str = ""  # the card's name, empty without one
    usage: Usage = Usage()
    memory: dict[str, Any] = {}  # tiers, plan and shelf, as the worker last told


class RecentJob(msgspec.Struct, frozen=True, kw_only=True):
    """One job that ended."""

    job: int
    file: str
    watch: str
    state: str
    reason: str = ""
    result: str = ""  # the result folder
    seconds: float | None = None  # of processing
    ended_at: float = 0.0


class DiskStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Room on one disk that the daemon writes to."""

    path: str
    free_bytes: int | None = None
    low: bool = False


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

    schema: int = SCHEMA
    version: str
    pid: int
    started_at: float
    updated_at: float
    interval_seconds: float  # how often the file is written
    seq: int  # grows by one with each write
    state: ServiceState
    problems: tuple[str, ...] = ()  # plain sentences
    watches: tuple[WatchStatus, ...] = ()
    queue: QueueStatus
    running: tuple[RunningJob, ...] = ()
    queued: tuple[QueuedJob, ...] = ()  # the first QUEUED_SHOWN
    worker: WorkerStatus = WorkerStatus()
    counts: dict[str, int] = {}  # jobs by state
    recent: tuple[RecentJob, ...] = ()  # the last RECENT_SHOWN, newest first
    disks: tuple[DiskStatus, ...] = ()
    rss: int | None = None  # resident memory of the daemon itself


def write_status(path: bytes, status: Status) -> str:
    """Write the file whole; returns why it could not be written, empty if it was.

    Never raises on a full or read-only disk: the old file stays, and its age says the rest.
    """
    try:
        write_whole(path, msgspec.json.encode(harmless(status)) + b"\n", durable=False)
    except OSError as error:
        return f"{shown(path)} can not be written: {error.strerror}"
    return ""


def read_status(path: bytes) -> Status:
    """The last written status; PenstockError if there is none or it can not be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        raise PenstockError(
            f"there is no status file {shown(path)}: no daemon has run with this state folder",
            "start it with `penstock run`, or name its config with --config",
        ) from None
    except OSError as error:
        raise PenstockError(
            f"the status file {shown(path)} can not be read: {error.strerror}",
            "run this as the service's user or as root",
        ) from error
    return _decoded(path, text)


def _decoded(path: bytes, text: bytes) -> Status:
    try:
        found = msgspec.json.decode(text, type=_Version).schema
        if found == SCHEMA:
            return msgspec.json.decode(text, type=Status)
    except msgspec.DecodeError as error:
        raise PenstockError(
            f"the status file {shown(path)} can not be understood: {error}",
            "delete it; a running daemon writes it anew within seconds",
        ) from error
    raise PenstockError(
        f"the status file {shown(path)} has schema {found}, this command reads schema {SCHEMA}",
        "use the command of the version that the daemon runs",
    )


class _Version(msgspec.Struct):
    schema: int


def is_fresh(status: Status, now: float) -> bool:
    """Whether the daemon still writes: the file is at most three intervals old.

    A file from the future is stale too: after the clock was set back a live daemon has rewritten
    it within an interval, and a dead one must not look alive until the clock catches up.
    """
    return abs(now - status.updated_at) <= STALE_INTERVALS * status.interval_seconds
