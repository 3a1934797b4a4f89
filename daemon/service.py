"""The one loop: owns all state, turns events into calls, is the only one to read the clock."""

import logging
import os
import queue
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from daemon import commands
from daemon.arrivals import Arrivals
from daemon.bulletin import Bulletin
from daemon.crew import Crew
from daemon.desk import Desk
from daemon.dispatch.executor import Executor, Gone, Heard
from daemon.dispatch.worker_link import WorkerLink
from daemon.hands import Did, Hands
from daemon.intake.watch import Offline, Online, Probed, Scanned
from daemon.queue.admit import Hold, admission, claiming
from daemon.queue.admit import Room as Facts
from daemon.queue.ledger import Ledger
from daemon.roster import Roster
from daemon.settings import Settings
from daemon.tell.control import Command, ControlServer, Reply, Request
from daemon.tell.file_monitor import FileMonitor
from daemon.tell.notify import Notifier, child_environment
from daemon.tell.status import Status
from daemon.values import Job, State
from daemon.walk import Walk
from pipeline.core.errors import PenstockError
from pipeline.core.gauge import Gauge

log = logging.getLogger("penstock")

DISK_EVERY_S = 10.0
LEDGER_CHECK_EVERY_S = 60.0
EVENTS_AT_ONCE = 200  # before timers, admission and claims get their turn
COMMAND_WAIT_S = 20.0
CLOSE_WAIT_S = 2.0
FIRST_LOOK_S = 15.0  # READY does not wait longer for a share that hangs


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """The operating system asks: "stop" or "reload"."""

    name: str


class Service:
    """The daemon. Everything below runs on the thread that calls run()."""

    def __init__(
        self,
        settings: Settings,
        *,
        notifier: Notifier | None = None,
        read_again: Callable[[], Settings] | None = None,
        watcher_of_progress: Callable[[Status], None] | None = None,
        ledger: Ledger | None = None,
        link: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._notifier = notifier or Notifier()
        self._read_again = read_again
        self._progress = watcher_of_progress
        state = settings.daemon.state_dir
        self.desk = Desk(
            settings=settings,
            ledger=ledger or Ledger.open(os.path.join(state, b"ledger.db"), wall()),
            hands=Hands(self._events.put),
            monitor=FileMonitor(
                os.path.join(settings.daemon.log_dir, b"file_monitor.jsonl"),
                max_bytes=settings.daemon.log_bytes,
                keep=settings.daemon.log_keep,
            ),
            link=link
            or WorkerLink(
                settings.worker,
                self._events.put,
                memory=settings.memory,
                learned=os.path.join(state, b"memory.db"),
                environment=child_environment(),
            ),
            clock=clock,
            wall=wall,
        )
        self.walk = Walk(self.desk)
        self.arrivals = Arrivals(self.desk, self.walk)
        self.crew = Crew(self.desk, self.walk)
        self.bulletin = Bulletin(self.desk, self.arrivals, self.crew)
        self.walk.on_end = self._ended
        self.walk.on_change = self.bulletin.receipt
        self.roster = Roster(self.desk, self.arrivals, self.walk, self._events.put)
        self._control: ControlServer | None = None
        self._facts_low = False
        self._ready = False
        self._stop_by = float("inf")
        self._dismissed = False
        self._closing = False
        self._gauge = Gauge(gpu=False)
        self._status_at = 0.0
        self._watchdog_at = 0.0 if self._notifier.watchdog_seconds else float("inf")
        self._ready_by = clock() + FIRST_LOOK_S

    # --- from other threads

    def post(self, event: Any) -> None:
        """Hand the loop an event; the only method that other threads and signals may call."""
        self._events.put(event)

    def stop(self) -> None:
        """Ask for a clean stop."""
        self.post(Signal(name="stop"))

    def reload(self) -> None:
        """Ask for the config to be read again."""
        self.post(Signal(name="reload"))

    # --- life

    def run(self, *, until_idle: bool = False, control: bool = True) -> int:
        """Watch and work until stopped (or until nothing is left to do).

        Returns the exit status: 0, or 1 if all was to be done and a file failed. A daemon that is
        stopped has not failed, whatever became of single files.
        """
        try:
            self._open(control=control)
            while not self._over(until_idle=until_idle):
                self._turn()
        finally:
            self._close()
        return 1 if until_idle and self.walk.failures else 0

    def _open(self, *, control: bool) -> None:
        desk = self.desk
        self._look_at_memory()
        desk.paused = desk.ledger.recall("paused") == "yes"
        for job in desk.ledger.open_jobs():
            desk.keep(job)
        for watch in desk.settings.watch:
            self.roster.watch(watch)
        self.roster.sweep()
        for job in list(desk.jobs.values()):
            self.walk.recover(job)
        if control:
            self._control = ControlServer(desk.settings.daemon.state_dir, self._ask)
            self._control.start()
        self._every(DISK_EVERY_S, self.roster.weigh_disks)
        self._every(LEDGER_CHECK_EVERY_S, desk.ledger.check_file)

    def _close(self) -> None:
        desk = self.desk
        self._closing = True
        self._refuse_requests()
        if self._control:
            self._control.stop()
        self.roster.close(CLOSE_WAIT_S)
        desk.link.close(CLOSE_WAIT_S)
        desk.hands.close(CLOSE_WAIT_S)
        self.bulletin.state = "stopped"
        with suppress(PenstockError):  # a ledger that failed can not be counted
            self.bulletin.write()
        desk.ledger.close()
        self._notifier.close()

    def _turn(self) -> None:
        """Wait for the next event or timer; handle what is there; then decide."""
        for event in self._next_events():
            self._handle(event)
        desk = self.desk
        desk.ring()
        self.arrivals.ask(desk.clock())
        if not desk.draining:
            self._admit_and_claim()
        self.crew.check()
        self._announce()

    def _next_events(self) -> list[Any]:
        events = []
        wait = max(0.0, self._next_wake() - self.desk.clock())
        try:
            events.append(self._events.get(timeout=wait))
            while len(events) < EVENTS_AT_ONCE:
                events.append(self._events.get_nowait())
        except queue.Empty:
            pass
        return events

    def _next_wake(self) -> float:
        moments = [
            self._status_at,
            self._watchdog_at,
            self.desk.next_timer(),
            self.arrivals.next_probe(),
            self.crew.next_start(),
            self._stop_by,
        ]
        return min(moment for moment in moments if moment is not None)

    def _handle(self, event: Any) -> None:
        match event:
            case Scanned():
                self.desk.attempt(lambda: self.arrivals.scanned(event))
            case Probed():
                self.arrivals.probed(event)
            case Online():
                self.desk.attempt(lambda: self.arrivals.online(event))
            case Offline():
                self.arrivals.offline(event)
            case Heard():
                self.desk.attempt(lambda: self.crew.heard(event))
            case Gone():
                self.desk.attempt(lambda: self.crew.gone(event))
            case Did():
                event.then(event.result, event.error)
            case Request():
                commands.handle(self, event)
            case Signal(name="stop"):
                self._drain()
            case Signal(name="reload"):
                self._reload()
            case _:
                raise TypeError(f"the loop does not know the event {event!r}")

    def _over(self, *, until_idle: bool) -> bool:
        desk = self.desk
        if desk.draining:
            if not desk.flights and desk.hands.idle:
                return True
            if desk.clock() >= self._stop_by and not self._dismissed:
                log.warning("jobs that still run are handed back to the queue")
                self._dismissed = True
                self._stop_by = desk.clock() + CLOSE_WAIT_S
                self.crew.dismiss()
                return False
            return desk.clock() >= self._stop_by
        idle = self._ready and self.arrivals.idle and not desk.jobs and not desk.flights
        return until_idle and idle and desk.hands.idle

    # --- deciding

    def _admit_and_claim(self) -> None:
        desk = self.desk
        facts = self._facts()
        verdict = admission(facts)
        low = verdict.low if isinstance(verdict, Hold) else False
        if low != self._facts_low:
            self._facts_low = low
            desk.tell("disk_low" if low else "disk_ok", free=facts.free_bytes)
            log.warning(
                "disk: %s", verdict.why if isinstance(verdict, Hold) else "enough room again"
            )
        if isinstance(verdict, Hold):
            self.bulletin.held = verdict.why
        else:
            self.bulletin.held = ""
            desk.attempt(self.arrivals.admit)
        if not isinstance(claiming(facts), Hold):
            if self.arrivals.trackers:
                self.crew.warm()
            desk.attempt(self.crew.claim)

    def _facts(self) -> Facts:
        desk, limits = self.desk, self.desk.settings.queue
        known = [room.free_bytes for room in desk.rooms.values() if room.free_bytes is not None]
        return Facts(
            open_jobs=len(desk.jobs), size=limits.size, paused=desk.paused,
            free_bytes=min(known, default=1 << 62),
            low_bytes=int(limits.disk_low_gb * 1e9), stop_bytes=int(limits.disk_stop_gb * 1e9),
            low=self._facts_low,
        )  # fmt: skip

    def _ended(self, job: Job, stays: bool) -> None:
        self.bulletin.ended(job)
        self.arrivals.stays(job.watch, job.name, job.mark if stays else None)
        room = self.desk.rooms.get(job.watch)
        if room is not None and not stays:
            room.watcher.forget([job.name])
            if job.state in (State.SUPERSEDED, State.FAILED):
                room.watcher.look()

    # --- upkeep

    def _reload(self) -> None:
        if self._read_again is None:
            return
        self._notifier.reloading()
        desk = self.desk
        try:
            new = self._read_again()
        except Exception as error:  # noqa: BLE001  # whatever is wrong with it, the old one stays
            log.error("the new config is refused, the old one stays: %s", error)
            desk.problems["config"] = f"the new config is refused, the old one stays: {error}"
        else:
            self.roster.change_to(new)
        self._notifier.ready(self.bulletin.line())

    def _every(self, seconds: float, call: Callable[[], None]) -> None:
        def again() -> None:
            call()
            self.desk.later(seconds, again)

        again()

    def _drain(self) -> None:
        desk = self.desk
        if desk.draining:
            return
        log.info("stopping: %d jobs may finish", len(desk.flights))
        desk.draining = True
        self.bulletin.state = "draining"
        self._notifier.stopping()
        self._stop_by = desk.clock() + desk.settings.daemon.stop_seconds

    def _announce(self) -> None:
        now = self.desk.clock()
        looked = all(room.looked for room in self.desk.rooms.values())
        if not self._ready and (looked or now >= self._ready_by):
            self._ready = True
            self.bulletin.state = "ready"
            self._notifier.ready(self.bulletin.line())
            log.info("ready: %d watches, %d open jobs", len(self.desk.rooms), len(self.desk.jobs))
            self._status_at = now
        if now >= self._watchdog_at and self._notifier.watchdog_seconds:
            self._watchdog_at = now + self._notifier.watchdog_seconds / 3
            if self._watches_turn(now):
                self._notifier.watchdog()
        if now < self._status_at:
            return
        self._status_at = now + self.desk.settings.daemon.status_seconds
        self._look_at_memory()
        self.bulletin.write()
        self.bulletin.refresh_receipts()
        self._notifier.status(self.bulletin.line())
        if self._progress:
            self._progress(self.bulletin.compose())

    def _look_at_memory(self) -> None:
        """While no worker tells, the daemon looks at the host itself."""
        if self.crew.state() == "off":
            self.desk.usage = self._gauge.read()

    def _watches_turn(self, now: float) -> bool:
        """Whether the scan loops of local watches turn; a hung share must not end the daemon."""
        limit = max(10.0, self._notifier.watchdog_seconds or 0.0)
        return all(
            now - room.watcher.alive_at < limit for room in self.desk.rooms.values() if room.local
        )

    def _refuse_requests(self) -> None:
        """Nobody will answer what is still in the line."""
        while not self._events.empty():
            event = self._events.get()
            if isinstance(event, Request):
                event.answer(Reply(ok=False, text="the daemon is stopping"))

    def _ask(self, command: Command) -> Reply:
        if self._closing:
            return Reply(ok=False, text="the daemon is stopping")
        request = Request(command)
        self.post(request)
        return request.wait(COMMAND_WAIT_S)
