"""The state that the loop owns, and the one gate through which a job changes."""

import heapq
import itertools
import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from daemon.dispatch.executor import Executor
from daemon.hands import Hands
from daemon.intake.watch import Watcher
from daemon.queue.ledger import Ledger
from daemon.settings import Settings, WatchSettings
from daemon.tell.file_monitor import FileMonitor
from daemon.values import OPEN, Job, NewJob, Sighting, State
from pipeline.core.contract import Usage
from pipeline.core.errors import NoSpace
from pipeline.core.text import shown

log = logging.getLogger("penstock")

LEDGER_RETRY_S = 5.0


@dataclass
class Flight:
    """An order that the worker holds, as far as it told. Times are monotonic seconds."""

    job: int
    attempt: int
    started_at: float
    step_at: float
    stage: str = ""
    fraction: float | None = None
    overall: float | None = None
    ended: str = ""  # set when the job's row has moved on and only the worker's answer is awaited


@dataclass
class Room:
    """A watch while it is watched."""

    settings: WatchSettings
    watcher: Watcher
    online: bool = False
    reason: str = "not looked at yet"
    mode: str = ""
    local: bool = True
    scanned: bool = False  # the first full scan is done
    looked: bool = False  # scanned, or known to be offline
    last_scan_wall: float | None = None
    files: int = 0
    skipped: int = 0
    free_bytes: int | None = None


@dataclass
class Desk:
    """Everything that changes; only the loop's thread touches it."""

    settings: Settings
    ledger: Ledger
    hands: Hands
    monitor: FileMonitor
    link: Executor
    clock: Callable[[], float]  # monotonic seconds
    wall: Callable[[], float]  # seconds since 1970
    rooms: dict[str, Room] = field(default_factory=dict)
    retired: dict[str, WatchSettings] = field(default_factory=dict)  # gone from the config
    jobs: dict[int, Job] = field(default_factory=dict)  # open ones, in admission order
    by_name: dict[tuple[str, bytes], int] = field(default_factory=dict)
    flights: dict[int, Flight] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)  # what is wrong now, by topic
    usage: Usage = field(default_factory=Usage)
    paused: bool = False
    draining: bool = False
    ledger_retry_s: float = LEDGER_RETRY_S  # while its disk is full
    card: str = ""  # the card that the worker uses, empty without one
    memory: dict[str, Any] = field(default_factory=dict)  # as the worker last told it
    _timers: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _ticket: "itertools.count[int]" = field(default_factory=itertools.count)

    # --- time

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call back on the loop after a while."""
        heapq.heappush(self._timers, (self.clock() + delay_s, next(self._ticket), call))

    def next_timer(self) -> float | None:
        """When the next call back is due."""
        return self._timers[0][0] if self._timers else None

    def ring(self) -> None:
        """Run every call back that is due."""
        now = self.clock()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    # --- jobs

    def admit(self, new: Collection[NewJob]) -> list[Job]:
        """New rows, one transaction; what is open already is left out."""
        jobs = self.ledger.admit(list(new), self.wall())
        for job in jobs:
            self.keep(job)
            self.tell("admitted", job, priority=job.priority, recipe=job.recipe)
        return jobs

    def move(self, job: Job, to: State, *, event: str = "", **changes: Any) -> Job:
        """The one gate: a legal move, durable before anything follows from it."""
        moved = self.ledger.move(job, to, self.wall(), event=event, **changes)
        self.problems.pop("ledger", None)
        self.keep(moved)
        return moved

    def update(self, job: Job, *, event: str, **changes: Any) -> Job:
        """Change a job's facts without moving it."""
        changed = self.ledger.update(job, self.wall(), event=event, **changes)
        self.keep(changed)
        return changed

    def keep(self, job: Job) -> None:
        """Remember an open job, forget an ended one."""
        if job.state in OPEN:
            self.jobs[job.id] = job
            self.by_name[job.watch, job.name] = job.id
        else:
            self.jobs.pop(job.id, None)
            if self.by_name.get((job.watch, job.name)) == job.id:
                del self.by_name[job.watch, job.name]

    def open_job(self, watch: str, name: bytes) -> Job | None:
        """The open visit of that file, if there is one."""
        number = self.by_name.get((watch, name))
        return None if number is None else self.jobs[number]

    def attempt(self, call: Callable[[], None]) -> None:
        """Run a step that writes to the ledger; on a full disk, try it again in a while."""
        try:
            call()
        except NoSpace as error:
            if "ledger" not in self.problems:
                log.error("the ledger's disk is full; everything waits: %s", error)
            self.problems["ledger"] = f"the disk of the state folder is full: {error}"
            self.later(self.ledger_retry_s, lambda: self.attempt(call))

    # --- watches

    def watch_of(self, job: Job) -> WatchSettings | None:
        """The settings that the job's watch has, or had before it left the config."""
        room = self.rooms.get(job.watch)
        return room.settings if room else self.retired.get(job.watch)

    # --- telling

    def tell(self, event: str, job: Job | None = None, **facts: Any) -> None:
        """One file_monitor line about a job or the service."""
        self.monitor.write(
            event,
            watch=job.watch if job else str(facts.pop("watch", "")),
            job=job.id if job else None,
            file=job.name if job else b"",
            now=self.wall(),
            usage=self.usage,
            **facts,
        )

    def tell_file(self, event: str, watch: str, sighting: Sighting, **facts: Any) -> None:
        """One file_monitor line about a file that is no job yet."""
        self.monitor.write(
            event, watch=watch, file=sighting.name, now=self.wall(), usage=self.usage,
            bytes=sighting.size, **facts,
        )  # fmt: skip

    def scratch_root(self) -> bytes:
        """Where jobs keep their intermediate files."""
        return os.path.join(self.settings.daemon.state_dir, b"scratch")

    def scratch_of(self, job: Job) -> bytes:
        """The job's own folder of intermediate files and checkpoints."""
        return os.path.join(self.scratch_root(), job.label.encode())


def pin_key(watch: WatchSettings) -> str:
    """Under which the ledger remembers the mount that a watch was last seen on."""
    return f"pin {watch.name} {shown(watch.path)}"


def about(job: Job) -> dict[str, str]:
    """Extra fields of a log line about a job."""
    return {"watch": job.watch, "job": job.label, "file": shown(job.name)}
