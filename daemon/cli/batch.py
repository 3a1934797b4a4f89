"""One service over a fixed list of files, and what became of each of them."""

import functools
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import msgspec

from daemon.cli.given import Given
from daemon.cli.outcome import Outcome, fallbacks_of, outcome_of
from daemon.cli.progress import Progress
from daemon.publish.janitor import sweep_staging
from daemon.settings import Settings
from daemon.tell import journal
from daemon.values import State
from pipeline.core.text import shown

if TYPE_CHECKING:
    from daemon.service import Service
    from daemon.tell.status import Status
    from daemon.values import Job

WAITS_S = 2.0  # a file that is not taken for so long is worth a word
WAITS_SHOWN = 3


class Batch:
    """One service over one list, and what became of each file."""

    def __init__(self, settings: Settings, given: Given, show: Progress) -> None:
        self._settings = settings
        self._show = show
        self._output = settings.watch[0].outbox
        self._paths = {
            (watch.name, name): path
            for watch, names in zip(settings.watch, given.names.values(), strict=True)
            for name, path in names.items()
        }
        self._outcomes: dict[tuple[str, bytes], Outcome] = {}
        self._fallbacks: set[str] = set()  # that were told
        self._held: dict[str, str] = {}
        self._interrupted = False
        self._service: Service | None = None

    def run(self) -> bool:
        """Work until all is done; True if it was interrupted."""
        from daemon.service import Service

        journal.setup("warning")
        service = Service(self._settings, watcher_of_progress=self._look)
        self._service = service
        record = service.walk.on_end

        def ended(job: "Job", stays: bool) -> None:
            record(job, stays)
            self._ended(job)

        service.walk.on_end = ended
        with self._signals(), _only_troubles():
            try:
                service.run(until_idle=True, control=False)
            finally:  # an interrupted job leaves what it had begun
                sweep_staging(self._output, service.desk.ledger.uid, ())
        self._held = {room.settings.name: room.reason for room in service.desk.rooms.values()}
        return self._interrupted

    def all_outcomes(self, *, interrupted: bool) -> list[Outcome]:
        """One for each file, in the order in which they were named."""
        return [
            self._outcomes.get(key) or self._unended(key, path, interrupted=interrupted)
            for key, path in self._paths.items()
        ]

    def _unended(self, key: tuple[str, bytes], path: bytes, *, interrupted: bool) -> Outcome:
        if interrupted:
            return Outcome(path=path, state="stopped", reason="interrupted; run it again")
        reason = self._held.get(key[0]) or "it was not there any more when its turn came"
        return Outcome(path=path, state="failed", reason=reason)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def asked(_number: int, _frame: FrameType | None) -> None:
            self._interrupted = True
            # What is said of a stop is about a queue that will go on; this one will not.
            logging.getLogger("penstock").setLevel(logging.ERROR)
            if self._service is not None:
                self._service.stop()

        wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, asked) for number in wanted}
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # see intake/lease.py
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ended(self, job: "Job") -> None:
        key = (job.watch, job.name)
        if job.state is State.SUPERSEDED or key not in self._paths:
            return  # its new bytes are another visit
        outcome = outcome_of(job, self._paths[key], self._output)
        self._outcomes[key] = outcome
        good = outcome.state == "done"
        told = shown(outcome.result) if good else shown(outcome.why, 1000)
        for line in fallbacks_of(outcome.reports):
            if line not in self._fallbacks:
                self._fallbacks.add(line)
                self._show.note(line)
        self._show.ended(shown(outcome.path), good=good, told=told)

    def _look(self, status: "Status") -> None:
        assert self._service is not None
        jobs = self._service.desk.jobs
        running = [
            msgspec.structs.replace(entry, file=shown(self._path_of(jobs[entry.job])))
            for entry in status.running
            if entry.job in jobs
        ]
        self._show.running(running)
        idle = not status.running
        notes = [*status.problems, status.queue.held if idle else "", *self._waiting()]
        self._show.note("; ".join(note for note in notes if note))

    def _path_of(self, job: "Job") -> bytes:
        return self._paths.get((job.watch, job.name), job.name)

    def _waiting(self) -> list[str]:
        """Files that can not be taken yet, and why."""
        assert self._service is not None
        now = self._service.desk.clock()
        held = [
            f"{shown(self._paths.get(key, key[1]))} waits: {tracker.held}"
            for key, tracker in self._service.arrivals.trackers.items()
            if now - tracker.first_seen > WAITS_S
        ]
        more = len(held) - WAITS_SHOWN
        return held[:WAITS_SHOWN] + ([f"and {more} more wait"] if more > 0 else [])


@contextmanager
def _only_troubles() -> Iterator[None]:
    """Keep out of the log what is told on stdout: the ends of files, and fallbacks."""
    told = {"penstock.job": logging.ERROR, "penstock.worker": logging.WARNING}
    filters = [
        (logging.getLogger(name), functools.partial(_of_another_level, level))
        for name, level in told.items()
    ]
    for log, rule in filters:
        log.addFilter(rule)
    try:
        yield
    finally:
        for log, rule in filters:
            log.removeFilter(rule)


def _of_another_level(level: int, record: logging.LogRecord) -> bool:
    return record.levelno != level
