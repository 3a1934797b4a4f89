"""The worker as the loop sees it: claims, orders, answers, overdue jobs, restarts."""

import logging
import os
import signal

from daemon.breaker import Breaker
from daemon.desk import Desk, Flight, about
from daemon.dispatch.executor import Gone, Heard
from daemon.dispatch.supervise import InFlight, overdue, restart_pause
from daemon.publish.steps import result_name, staging_of
from daemon.queue.schedule import next_claim
from daemon.settings import WatchSettings
from daemon.values import Job, Rung, State
from daemon.walk import Walk
from pipeline.core.contract import (
    Alive,
    Beat,
    Failed,
    Fault,
    Finished,
    Hello,
    Note,
    Order,
    Recycle,
    StageDone,
    Usage,
)
from pipeline.core.errors import LinkError
from pipeline.core.faults import from_exit
from pipeline.core.host_memory import limits_of, oom_kills
from pipeline.core.text import fit_name, human_seconds, shown

log = logging.getLogger("penstock.worker")

STEM_ROOM = 200  # bytes; leaves space for the longest output suffix within 255


class Crew:
    """Feeds the worker and answers for it. Called on the loop only."""

    def __init__(self, desk: Desk, walk: Walk) -> None:
        self._desk = desk
        self._walk = walk
        self._served: dict[str, int] = {}
        self._turn = 0
        # From its start until the loop has heard of its end: what the process table says in between
        # must not start another one, or that end would be taken for an old one's.
        self._running = False
        self._limits = limits_of()
        self._oom_kills: int | None = None  # the kernel's count when the worker was started
        self._ready = False  # the worker said hello
        self._alive_at = 0.0
        self._blamed: dict[int, str] = {}  # killed for this job, and why
        self._spared = False  # killed on purpose: nobody is to blame
        self._device = ""  # what the worker was started for
        self._fresh = False  # it has had no order yet
        self._retire = ""  # why it is to be replaced once it is idle
        self.breaker = Breaker(desk)
        self._ends: list[float] = []  # unwanted ends, monotonic
        self._start_at = 0.0
        self.restarts = 0
        self.last_exit = ""

    # --- orders

    def claim(self) -> None:
        """Give the worker as many orders as it has lanes for."""
        desk = self._desk
        # Where memory is tight, one file at a time; the worker says so with every sign of life.
        lanes = 1 if desk.memory.get("alone") else desk.settings.worker.lanes
        while len(desk.flights) < lanes:
            suspects = self._suspects()
            running = [desk.jobs[number] for number in desk.flights if number in desk.jobs]
            queued = [job for job in desk.jobs.values() if self._ready_to_run(job)]
            if len(running) < len(desk.flights):  # the worker still clears away a job that left
                queued = [job for job in queued if job.id not in suspects]
            job = next_claim(
                queued, running, lanes=lanes, served=self._served,
                now=desk.clock(), not_before=self._walk.not_before, suspects=suspects,
            )  # fmt: skip
            if job is None:
                if self._retire and not desk.flights and self._running:
                    self.dismiss()
                return
            if not self._worker_for(job) or not self._order(job):
                return

    def _ready_to_run(self, job: Job) -> bool:
        room = self._desk.rooms.get(job.watch)
        return job.state is State.QUEUED and room is not None and room.online

    def _suspects(self) -> set[int]:
        """Jobs that were in flight when a worker died; each runs alone until it has passed."""
        return {job.id for job in self._desk.jobs.values() if job.kills or job.rung}

    def _worker_for(self, job: Job) -> bool:
        """Whether a worker that suits the job is ready; if not, takes the next step to one."""
        desk, device = self._desk, self._device_for(job.rung)
        if self._running:
            stale = job.rung is not Rung.NORMAL and not self._fresh
            if not (self._retire or stale or device != self._device):
                return self._ready
            if not desk.flights:
                self.dismiss()
            return False
        self._start(device)
        return False  # orders go out once it has said hello

    def warm(self) -> None:
        """Start a worker before the first order: a file is on its way."""
        if not self._running:
            self._start(self._device_for(Rung.NORMAL))

    def _start(self, device: str) -> None:
        desk = self._desk
        if self._start_at > desk.clock():
            return
        try:
            desk.link.start(device)
        except LinkError as error:
            desk.problems["worker"] = str(error)
            log.error("%s", error)
            self._unwanted_end()
            return
        self._running = True
        self._oom_kills = oom_kills(self._limits)
        self._alive_at = desk.clock()
        self._device, self._fresh, self._retire = device, True, ""
        desk.tell("worker_started", pid=desk.link.pid, device=device)

    def _device_for(self, rung: Rung) -> str:
        on_cpu = rung is Rung.CPU or self.breaker.open
        return "cpu" if on_cpu else self._desk.settings.gpu.device

    def _order(self, job: Job) -> bool:
        desk, room = self._desk, self._desk.rooms[job.watch]
        claimed = desk.move(job, State.CLAIMED, event="started", attempt=job.attempt + 1)
        self._turn += 1
        self._served[job.watch] = self._turn
        now = desk.clock()
        try:
            desk.link.submit(self._order_of(claimed, room.settings))
        except LinkError as error:
            # It never got the order: the attempt does not count. Its end follows as an event.
            desk.move(claimed, State.QUEUED, event=str(error), attempt=job.attempt)
            return False
        desk.flights[job.id] = Flight(
            job=job.id, attempt=claimed.attempt, started_at=now, step_at=now
        )
        self._fresh = False
        log.info("%s: started %s", job.label, shown(job.name), extra=about(job))
        desk.tell("started", claimed, attempt=claimed.attempt)
        self._walk.on_change(claimed)
        return True

    def _order_of(self, job: Job, watch: WatchSettings) -> Order:
        settings = self._desk.settings
        return Order(
            job=job.id, attempt=job.attempt, recipe=job.recipe, root=job.root, name=job.name,
            mark=job.mark, stem=fit_name(os.path.basename(result_name(job.name)), room=STEM_ROOM),
            scratch=self._desk.scratch_of(job),
            staging=staging_of(watch.outbox, job.label, self._desk.ledger.uid),
            options=job.options, device=self._device, frugal=job.rung is not Rung.NORMAL,
            models=settings.models.dir, offline=settings.models.offline,
        )  # fmt: skip

    # --- answers

    def heard(self, event: Heard) -> None:
        """A line from the worker."""
        if event.generation != self._desk.link.generation:
            return
        now = self._desk.clock()
        self._alive_at = now
        match event.message:
            case Hello(card=card):
                self._ready = True
                self._desk.card = card
                self._desk.problems.pop("worker", None)
            case Alive(usage=usage, memory=memory):
                self._desk.usage = usage
                self._desk.memory = memory
            case Note() as note:
                self._noted(note)
            case Recycle(reason=reason):
                self._retire = self._retire or reason
                log.info("the worker will be replaced once it is idle: %s", reason)
            case Beat() | StageDone() as message:
                self._moved_on(message, now)
            case Finished() | Failed() as answer:
                self._answered(answer)

    def _moved_on(self, message: Beat | StageDone, now: float) -> None:
        flight = self._desk.flights.get(message.job)
        if flight is None:
            return
        if isinstance(message, Beat):
            told, known = (message.stage, message.fraction), (flight.stage, flight.fraction)
            # No fraction: it waits for the card or can not tell. Alive, and not to blame.
            if message.fraction is None or told != known:
                flight.step_at = now
            flight.stage, flight.fraction = message.stage, message.fraction
            flight.overall = message.overall
            return
        flight.step_at = now
        job = self._desk.jobs.get(message.job)
        if job is not None:
            report = message.report
            self._desk.tell(
                "stage", job, stage=report.stage, engine=report.engine, device=report.device,
                seconds=report.seconds, resumed=report.resumed, fallback=report.fallback,
            )  # fmt: skip
            if report.fallback and not report.resumed:
                log.warning(
                    "%s: %s ran on %s: %s", job.label, report.stage, report.engine,
                    report.fallback, extra=about(job),
                )  # fmt: skip

    def _answered(self, answer: Finished | Failed) -> None:
        flight = self._desk.flights.get(answer.job)
        if flight is None or flight.attempt != answer.attempt:
            return
        del self._desk.flights[answer.job]
        job = self._desk.jobs.get(answer.job)
        if job is not None and job.rung is not Rung.NORMAL:
            self._retire = "it served a job that had to run alone"
        if isinstance(answer, Finished):
            self._ends.clear()  # it works: what ended it before was a file, not the installation
            self._walk.finished(flight, answer)
            return
        if answer.fault in (Fault.STICKY, Fault.DEVICE):
            self._distrust(answer)
        self._walk.failed(flight, answer)

    def _distrust(self, answer: Failed) -> None:
        """The worker's process is poisoned or its card is lost: it ends now, others go back."""
        log.error("the worker is replaced: %s", answer.reason)
        if answer.fault is Fault.DEVICE:
            self.breaker.trip(answer.reason)
        self._blamed[answer.job] = answer.reason
        self._end_worker()

    def _noted(self, note: Note) -> None:
        """Something about memory: a line in the log, a line in file_monitor."""
        job = None if note.job is None else self._desk.jobs.get(note.job)
        level = logging.WARNING if note.warning else logging.INFO
        log.log(level, "%s", note.text, extra=about(job) if job else None)
        self._desk.tell(note.event, job, text=note.text, **note.facts)
        if note.event == "recovery" and job is not None:
            self._desk.ledger.note(job.id, note.text, self._desk.wall())

    # --- ends

    def check(self) -> None:
        """Kill a worker that is overdue; its end is answered when it comes."""
        desk = self._desk
        if self.breaker.check():
            self._retire = "the card is back"
        if not self._running:
            return
        if not self._ready:
            silent = desk.clock() - self._alive_at > desk.settings.worker.silent_seconds
            if silent:
                log.error("the worker did not say hello; it is replaced")
                self._end_worker()
            return
        flights = [
            InFlight(job=flight.job, started_at=flight.started_at, step_at=flight.step_at)
            for flight in desk.flights.values()
        ]
        late = overdue(flights, self._alive_at, desk.clock(), desk.settings.worker)
        if late is None or self._blamed or self._spared:
            return
        log.error("the worker is killed: %s", late.reason)
        if late.job is not None:
            self._blamed[late.job] = late.reason
        self._end_worker()

    def gone(self, event: Gone) -> None:
        """The worker's process ended, wanted or not."""
        desk = self._desk
        if event.generation != desk.link.generation:
            return
        self._running = self._ready = False
        self.last_exit = _how(event.status)
        flights = list(desk.flights.values())
        desk.flights.clear()
        desk.usage, desk.memory, self._retire = Usage(), {}, ""
        blamed, self._blamed = self._blamed, {}
        spared, self._spared = self._spared, False
        if desk.draining or (spared and not flights):
            self._hand_back(flights)
            return
        starved = self._killed_for_memory(event)
        self._unwanted_end()
        log.error("the worker ended: %s%s", self.last_exit, _last_words(event.tail))
        desk.tell("worker_lost", reason=self.last_exit, jobs=[flight.job for flight in flights])
        for flight in flights:
            self._lost(flight, blamed, Fault.NO_MEMORY if starved else Fault.LOST)

    def _killed_for_memory(self, event: Gone) -> bool:
        """Whether the kernel ended it because the host's memory ran out."""
        before, now = self._oom_kills, oom_kills(self._limits)
        grown = None if before is None or now is None else now - before
        finding = from_exit(event.status, event.tail, grown)
        if grown and finding.host:
            self.last_exit = finding.reason
            return True
        return False

    def _lost(self, flight: Flight, blamed: dict[int, str], fault: Fault) -> None:
        job = self._desk.jobs.get(flight.job)
        if flight.ended or job is None:
            gone = Failed(
                job=flight.job, attempt=flight.attempt, fault=Fault.CANCELLED, reason="worker gone"
            )
            self._walk.failed(flight, gone)
        elif flight.job in blamed:
            self._walk.failure(job, Fault.TIMEOUT, blamed[flight.job])
        elif blamed:  # it only shared the worker with the one that was killed
            self._desk.attempt(lambda: self._back_in_line(job))
        else:
            self._walk.failure(job, fault, f"the worker ended: {self.last_exit}")

    def _unwanted_end(self) -> None:
        now = self._desk.clock()
        self._ends.append(now)
        self.restarts += 1
        pause = restart_pause(self._ends, now)
        self._start_at = now + pause
        if pause:
            text = f"the worker ends again and again; next start in {human_seconds(pause)}"
            self._desk.problems["worker"] = text
            log.error("%s", text)

    def _hand_back(self, flights: list[Flight]) -> None:
        """At a stop: what was in flight goes back to the queue and loses no attempt."""
        for flight in flights:
            job = self._desk.jobs.get(flight.job)
            if job is not None and job.state is State.CLAIMED and not flight.ended:
                self._desk.attempt(lambda job=job: self._back_in_line(job))  # type: ignore[misc]

    def _back_in_line(self, job: Job) -> None:
        self._desk.move(job, State.QUEUED, event="handed back", attempt=job.attempt - 1)

    def _end_worker(self) -> None:
        """Kill it; from now on it gets no order, which would only die with it."""
        self._ready = False
        self._desk.link.kill()

    def dismiss(self) -> None:
        """End the worker on purpose: nobody is to blame."""
        self._spared = True
        self._end_worker()

    def state(self) -> str:
        """One word for the status."""
        if not self._running:
            return "off"
        if not self._ready:
            return "starting"
        return "busy" if self._desk.flights else "idle"

    def next_start(self) -> float | None:
        """When a paused restart may happen (monotonic), if one is pending."""
        return self._start_at if self._start_at > self._desk.clock() else None


def _how(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = " (the kernel, short of memory, or somebody's kill)" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"


def _last_words(tail: tuple[str, ...]) -> str:
    return f"; it last printed: {tail[-1]}" if tail else ""
