"""What the loop tells the outside: the status document and the receipts beside the drops."""

import os

import psutil

from daemon.arrivals import Arrivals
from daemon.crew import Crew
from daemon.desk import Desk, Room
from daemon.publish.receipts import Receipt, put, render
from daemon.tell.status import (
    QUEUED_SHOWN,
    RECENT_SHOWN,
    DiskStatus,
    QueuedJob,
    QueueStatus,
    RecentJob,
    RunningJob,
    ServiceState,
    Status,
    WatchStatus,
    WorkerStatus,
    write_status,
)
from daemon.values import Job, State
from pipeline.core.text import shown
from pipeline.core.version import __version__

RECEIPT_EVERY_S = 5.0  # progress in a receipt; changes of state are written at once
RECEIPT_BACKLOG = 20  # calls waiting on a share; beyond it receipts are left out


class Bulletin:
    """Composes the status; writes it and the receipts. Called on the loop only."""

    def __init__(self, desk: Desk, arrivals: Arrivals, crew: Crew) -> None:
        self._desk = desk
        self._arrivals = arrivals
        self._crew = crew
        self._process = psutil.Process()
        self._started_at = desk.wall()
        self._seq = 0
        self._recent: list[RecentJob] = [
            self._ended(job) for job in desk.ledger.recent(RECENT_SHOWN)
        ]
        self._receipt_at: dict[int, float] = {}
        self.held = ""
        self.state: ServiceState = "starting"

    @property
    def path(self) -> bytes:
        """Where the status document lies."""
        return os.path.join(self._desk.settings.daemon.state_dir, b"status.json")

    # --- the status

    def write(self) -> None:
        """Write status.json; a full disk leaves the old one, whose age then tells."""
        self._seq += 1
        problem = write_status(self.path, self.compose())
        if problem:
            self._desk.problems["status"] = problem
        else:
            self._desk.problems.pop("status", None)

    def compose(self) -> Status:
        """The whole state as one value."""
        desk = self._desk
        return Status(
            version=__version__,
            pid=self._process.pid,
            started_at=self._started_at,
            updated_at=desk.wall(),
            interval_seconds=desk.settings.daemon.status_seconds,
            seq=self._seq,
            state=self._state(),
            problems=tuple(desk.problems.values()),
            watches=tuple(self._watch(room) for room in desk.rooms.values()),
            queue=self._queue(),
            running=self._running(),
            queued=self._queued(),
            worker=WorkerStatus(
                pid=desk.link.pid,
                state=self._crew.state(),
                restarts=self._crew.restarts,
                last_exit=self._crew.last_exit,
                device=desk.settings.gpu.device,
                card=desk.card,
                memory=desk.memory,
                usage=desk.usage,
            ),
            counts={state.value: count for state, count in desk.ledger.counts().items()},
            recent=tuple(self._recent),
            disks=self._disks(),
            rss=self._process.memory_info().rss,
        )

    def line(self) -> str:
        """One line for `systemctl status`: the queue and the current file."""
        desk = self._desk
        queued = sum(1 for job in desk.jobs.values() if job.state is State.QUEUED)
        outside = len(self._arrivals.waiting)
        parts = [self._state(), f"{queued} queued"]
        if outside:
            parts.append(f"{outside} waiting outside")
        for flight in desk.flights.values():
            job = desk.jobs.get(flight.job)
            if job is not None:
                share = "" if flight.overall is None else f" {flight.overall:.0%}"
                parts.append(f"{shown(job.name, 80)}: {flight.stage}{share}")
        if desk.problems:
            parts.append(f"{len(desk.problems)} problems")
        return "; ".join(parts)

    def _state(self) -> ServiceState:
        if self.state != "ready":
            return self.state
        if self._desk.paused:
            return "paused"
        return "degraded" if self._desk.problems else "ready"

    def _watch(self, room: Room) -> WatchStatus:
        settings = room.settings
        return WatchStatus(
            name=settings.name, path=shown(settings.path), recipe=settings.recipe,
            online=room.online, reason=room.reason, mode=room.mode, local=room.local,
            waiting=self._arrivals.settling(settings.name),
            settled_waiting=self._arrivals.outside(settings.name),
            last_scan_at=room.last_scan_wall, files=room.files, skipped=room.skipped,
            window_seconds=round(self._arrivals.window_of(room), 1),
        )  # fmt: skip

    def _queue(self) -> QueueStatus:
        desk = self._desk
        queued = [job for job in desk.jobs.values() if job.state is State.QUEUED]
        oldest = min((job.admitted_at for job in queued), default=None)
        return QueueStatus(
            size=desk.settings.queue.size,
            queued=len(queued),
            running=len(desk.flights),
            waiting_outside=len(self._arrivals.waiting),
            held=self.held,
            oldest_seconds=None if oldest is None else round(desk.wall() - oldest, 1),
        )

    def _running(self) -> tuple[RunningJob, ...]:
        desk, entries = self._desk, []
        for flight in desk.flights.values():
            job = desk.jobs.get(flight.job)
            if job is None:
                continue
            seconds = desk.clock() - flight.started_at
            entries.append(
                RunningJob(
                    job=job.id,
                    watch=job.watch,
                    file=shown(job.name),
                    recipe=job.recipe,
                    stage=flight.stage,
                    fraction=flight.fraction,
                    overall=flight.overall,
                    seconds=round(seconds, 1),
                    eta_seconds=eta(seconds, flight.overall),
                    attempt=flight.attempt,
                )
            )
        return tuple(entries)

    def _queued(self) -> tuple[QueuedJob, ...]:
        queued = [job for job in self._desk.jobs.values() if job.state is State.QUEUED]
        queued.sort(key=lambda job: (-job.priority, job.id))
        return tuple(
            QueuedJob(
                job=job.id,
                watch=job.watch,
                file=shown(job.name),
                position=place,
                attempt=job.attempt,
            )
            for place, job in enumerate(queued[:QUEUED_SHOWN], start=1)
        )

    def _disks(self) -> tuple[DiskStatus, ...]:
        low = self._desk.settings.queue.disk_low_gb * 1e9
        disks = {
            shown(room.settings.outbox): room.free_bytes
            for room in self._desk.rooms.values()
            if room.free_bytes is not None
        }
        return tuple(
            DiskStatus(path=path, free_bytes=free, low=free < low) for path, free in disks.items()
        )

    # --- ended jobs

    def ended(self, job: Job) -> None:
        """A job reached its end; it leads the list of recent ones."""
        self._recent.insert(0, self._ended(job))
        del self._recent[RECENT_SHOWN:]
        self._receipt_at.pop(job.id, None)

    def _ended(self, job: Job) -> RecentJob:
        watch = self._desk.watch_of(job)
        done = job.state is State.DONE and watch is not None
        return RecentJob(
            job=job.id, file=shown(job.name), watch=job.watch, state=job.state.value,
            reason=job.reason, seconds=round(sum(report.seconds for report in job.reports), 1),
            result=shown(os.path.join(watch.outbox, job.target)) if done and watch else "",
            ended_at=job.updated_at,
        )  # fmt: skip

    # --- receipts

    def receipt(self, job: Job) -> None:
        """Write the job's receipt beside its file, on the share's own hand."""
        room = self._desk.rooms.get(job.watch)
        if room is None or not room.settings.receipts or not room.online:
            return
        if job.state not in (State.QUEUED, State.CLAIMED):
            return
        if self._desk.hands.waiting(job.watch) > RECEIPT_BACKLOG:
            return
        self._receipt_at[job.id] = self._desk.clock()
        data, source, root = render(self._receipt(job)), job.source, job.root
        self._desk.hands.do(
            job.watch, lambda: put(source, data, root=root), lambda _result, _error: None
        )

    def refresh_receipts(self) -> None:
        """Progress for running jobs, every few seconds."""
        for flight in self._desk.flights.values():
            job = self._desk.jobs.get(flight.job)
            since = self._desk.clock() - self._receipt_at.get(flight.job, 0.0)
            if job is not None and since >= RECEIPT_EVERY_S:
                self.receipt(job)

    def _receipt(self, job: Job) -> Receipt:
        flight = self._desk.flights.get(job.id)
        overall = flight.overall if flight else None
        seconds = self._desk.clock() - flight.started_at if flight else 0.0
        return Receipt(
            name=job.name,
            state="waiting" if flight is None else "running",
            updated=self._desk.wall(),
            message=_message(job),
            position=self._position(job) if flight is None else None,
            stage=flight.stage if flight else "",
            percent=None if overall is None else 100.0 * overall,
            eta_seconds=eta(seconds, overall),
        )

    def _position(self, job: Job) -> int:
        """The job's place in line, from 1."""
        return sum(
            1
            for other in self._desk.jobs.values()
            if other.state is State.QUEUED
            and (-other.priority, other.id) <= (-job.priority, job.id)
        )


def _message(job: Job) -> str:
    if job.state is State.CLAIMED:
        return "being worked on"
    if job.attempt:
        return (
            f"waiting for another attempt, because {job.reason}" if job.reason else "waiting again"
        )
    return "waiting in line"


def eta(seconds: float, overall: float | None) -> float | None:
    """Seconds still to go, from the share that is done; None while it says too little."""
    if overall is None or overall < 0.02:
        return None
    return round(seconds * (1.0 - overall) / overall, 1)
