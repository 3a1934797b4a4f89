"""A job's walk from its place in the queue to its end; every step can be taken again."""

import logging
import os
import shutil
from collections.abc import Callable
from typing import Any

from daemon import ending
from daemon.desk import Desk, Flight, about
from daemon.publish.receipts import drop
from daemon.publish.steps import staging_of
from daemon.queue.recover import Facts, at_start
from daemon.queue.retry import GiveUp, Retry, after_failure
from daemon.settings import WatchSettings
from daemon.values import Job, State
from pipeline.core.contract import Failed, Fault, Finished
from pipeline.core.errors import NoSpace
from pipeline.core.text import human_bytes, human_seconds, shown

log = logging.getLogger("penstock.job")

STEP_RETRY_S = 15.0  # after a share refused a step; doubles up to ten minutes
STEP_RETRY_LONGEST_S = 600.0


class Walk:
    """Moves jobs; effects on shares run on their watch's hand. Called on the loop only."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._busy: set[int] = set()  # jobs with a step under way
        self._results: dict[int, Finished] = {}
        self._step_waits: dict[int, float] = {}
        self.not_before: dict[int, float] = {}  # monotonic, per queued job
        self.failures = 0
        self.on_end: Callable[[Job, bool], None] = lambda _job, _stays: None
        self.on_change: Callable[[Job], None] = lambda _job: None

    # --- into the walk

    def admitted(self, job: Job) -> None:
        """A new row; files that intake proved unusable go straight on to their end."""
        log.info("%s: admitted %s", job.label, shown(job.name), extra=about(job))
        self.on_change(job)
        if job.state is State.FAILING:
            self.step(job.id)

    def recover(self, job: Job) -> None:
        """Take up a job that an earlier daemon left open."""
        watch = self._desk.watch_of(job)
        if watch is None or job.state in (State.QUEUED, State.PUBLISHED, State.FAILING):
            self.step(job.id)
            return
        uid = self._desk.ledger.uid

        def look() -> Facts:
            return ending.facts_of(job, watch, uid)

        def then(facts: Any, error: Exception | None) -> None:
            if error is not None:
                self._again(job.id, error, lambda: self.recover(job))
                return
            resume = at_start(job, facts)
            if resume.to is not job.state:
                self._desk.attempt(lambda: self._recovered(job, resume.to, resume.why))
            self.step(job.id)

        self._desk.hands.do(job.watch, look, then)

    def _recovered(self, job: Job, to: State, why: str) -> None:
        log.info("%s: %s", job.label, why, extra=about(job))
        self._desk.move(job, to, event=why)

    # --- what the worker says

    def finished(self, flight: Flight, answer: Finished) -> None:
        """Every output is whole in staging."""
        if flight.ended:
            self._cleared(flight.job)
            return
        self._results[flight.job] = answer
        self.step(flight.job)

    def failed(self, flight: Flight, answer: Failed) -> None:
        """The worker gave up on this attempt."""
        if flight.ended:
            self._cleared(flight.job)
            return
        if answer.detail:
            log.debug("%s", answer.detail)
        job = self._desk.jobs[flight.job]
        reason = f"{answer.stage}: {answer.reason}" if answer.stage else answer.reason
        self.failure(job, answer.fault, reason, answer.hint)

    def failure(self, job: Job, fault: Fault, reason: str, hint: str = "") -> None:
        """Decide what follows from a failed attempt: another one, or the failed folder."""
        self._desk.attempt(lambda: self._answer(job, fault, reason, hint))

    def _answer(self, job: Job, fault: Fault, reason: str, hint: str) -> None:
        if fault in (Fault.LOST, Fault.TIMEOUT, Fault.STICKY):
            job = self._desk.update(job, event="the worker was lost on it", kills=job.kills + 1)
        verdict = after_failure(job, fault, self._desk.settings.queue, card=bool(self._desk.card))
        if isinstance(verdict, Retry):
            self._retry(job, verdict, fault, reason, hint)
        else:
            self._give_up(job, verdict, fault, reason, hint)

    def _retry(self, job: Job, verdict: Retry, fault: Fault, reason: str, hint: str) -> None:
        attempt = job.attempt if verdict.counts else job.attempt - 1
        rung = job.rung if verdict.rung is None else verdict.rung
        log.warning(
            "%s: attempt %d failed (%s); next in %s", job.label, job.attempt, reason,
            human_seconds(verdict.delay_seconds), extra=about(job),
        )  # fmt: skip
        self.not_before[job.id] = self._desk.clock() + verdict.delay_seconds

        def requeue() -> None:
            moved = self._desk.move(
                job, State.QUEUED, event="waits for another attempt", attempt=attempt,
                rung=rung, fault=fault, reason=reason, hint=hint,
            )  # fmt: skip
            self._desk.tell(
                "retried", moved, reason=reason, seconds=verdict.delay_seconds, rung=rung.name
            )
            self.on_change(moved)

        self._desk.attempt(requeue)

    def _give_up(self, job: Job, verdict: GiveUp, fault: Fault, reason: str, hint: str) -> None:
        text = f"{reason} ({verdict.reason_suffix})" if verdict.reason_suffix else reason

        def failing() -> None:
            self._desk.move(
                job, State.FAILING, event="gives up", fault=fault, reason=text, hint=hint
            )
            self.step(job.id)

        self._desk.attempt(failing)

    # --- out of the walk before its end

    def supersede(self, job: Job) -> bool:
        """The file changed: this visit ends, its new bytes are another. False: too late."""
        return self._leave(job, State.SUPERSEDED, "superseded", "the file changed")

    def gone_from_inbox(self, job: Job) -> bool:
        """The file was deleted or taken away."""
        return self._leave(job, State.GONE, "gone", "the file is no longer there")

    def cancel(self, job: Job) -> bool:
        """A person asked; the original stays where it is."""
        return self._leave(job, State.CANCELLED, "cancelled", "cancelled by request")

    def _leave(self, job: Job, to: State, event: str, reason: str) -> bool:
        if job.state not in (State.QUEUED, State.CLAIMED) or job.id in self._busy:
            return False
        self._end(job, to, event, stays=to is State.CANCELLED, reason=reason)
        flight = self._desk.flights.get(job.id)
        if flight:
            flight.ended = event
            self._desk.link.cancel(job.id)
        else:
            self._cleared(job.id, job)
        return True

    # --- the steps

    def step(self, number: int) -> None:
        """Take the next step of a job, whatever it is; harmless if there is none."""
        job = self._desk.jobs.get(number)
        if job is None or number in self._busy:
            return
        watch = self._desk.watch_of(job)
        if watch is None:
            self._desk.problems[f"watch {job.watch}"] = (
                f"{job.watch}: jobs wait for a watch that is no longer in the config"
            )
            return
        if job.state is State.CLAIMED and number in self._results:
            self._stage(job, watch)
        elif job.state is State.STAGED:
            self._publish(job, watch)
        elif job.state is State.PUBLISHED:
            self._part_with_original(job, watch)
        elif job.state is State.FAILING:
            self._fail(job, watch)

    def _hand(self, job: Job, call: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Run a step on the watch's hand, then record it; a refused step is taken again."""
        self._busy.add(job.id)

        def back(result: Any, error: Exception | None) -> None:
            self._busy.discard(job.id)
            if error is not None:
                self._again(job.id, error, lambda: self.step(job.id))
                return
            self._step_waits.pop(job.id, None)
            self._desk.problems.pop(f"job {job.label}", None)
            self._desk.attempt(lambda: then(result))

        self._desk.hands.do(job.watch, call, back)

    def _again(self, number: int, error: Exception, call: Callable[[], None]) -> None:
        wait = self._step_waits.get(number, STEP_RETRY_S)
        self._step_waits[number] = min(2 * wait, STEP_RETRY_LONGEST_S)
        job = self._desk.jobs[number]
        kind = "no room" if isinstance(error, NoSpace) else "refused"
        text = f"{job.label} {shown(job.name)}: {kind}: {error}; again in {human_seconds(wait)}"
        self._desk.problems[f"job {job.label}"] = text
        log.warning("%s", text, extra=about(job))
        self._desk.later(wait, call)

    def _stage(self, job: Job, watch: WatchSettings) -> None:
        answer = self._results[job.id]
        taken = self._taken(job, watch)
        uid, wall = self._desk.ledger.uid, self._desk.wall()

        def call() -> Any:
            return ending.stage(job, watch, answer, uid=uid, wall=wall, taken=taken)

        def then(result: Any) -> None:
            if isinstance(result, ending.Vanished):
                del self._results[job.id]
                to, event = (
                    (State.GONE, "gone") if result.missing else (State.SUPERSEDED, "superseded")
                )
                self._end(job, to, event, stays=False, reason=result.reason)
                self._cleared(job.id, job)
                return
            if isinstance(result, ending.Spoiled):
                del self._results[job.id]
                self.failure(job, Fault.TRANSIENT, result.reason)
                return
            self._desk.move(
                job, State.STAGED, event="staged", target=result,
                outputs=answer.outputs, reports=answer.reports, fault=None, reason="", hint="",
            )  # fmt: skip
            self._results.pop(job.id, None)
            self.step(job.id)

        self._hand(job, call, then)

    def _taken(self, job: Job, watch: WatchSettings) -> set[bytes]:
        """Result folders that other open jobs have reserved in the same outbox."""
        return {
            other.target
            for other in self._desk.jobs.values()
            if other.target and other.id != job.id and self._shares_outbox(other, watch)
        }

    def _shares_outbox(self, other: Job, watch: WatchSettings) -> bool:
        theirs = self._desk.watch_of(other)
        return theirs is not None and theirs.outbox == watch.outbox

    def _publish(self, job: Job, watch: WatchSettings) -> None:
        uid = self._desk.ledger.uid
        taken = self._taken(job, watch)

        def call() -> Any:
            return ending.publish_result(job, watch, uid=uid, taken=taken)

        def then(result: Any) -> None:
            if isinstance(result, ending.Elsewhere):
                if result.target not in self._taken(job, watch):
                    self._desk.update(job, event="target taken", target=result.target)
            else:
                moved = self._desk.move(job, State.PUBLISHED, event="published", original_to=result)
                self._tell_outputs(moved, watch)
            self.step(job.id)

        self._hand(job, call, then)

    def _tell_outputs(self, job: Job, watch: WatchSettings) -> None:
        seconds = round(sum(report.seconds for report in job.reports), 3)
        for output in job.outputs:
            self._desk.tell(
                "output", job, output=shown(output.name), bytes=output.size, seconds=seconds
            )
        result = os.path.join(watch.outbox, job.target)
        total = sum(output.size for output in job.outputs)
        log.info(
            "%s: published %s (%s in %s)", job.label, shown(result), human_bytes(total),
            human_seconds(seconds), extra=about(job),
        )  # fmt: skip
        self._desk.tell("published", job, result=shown(result), bytes=total, seconds=seconds)

    def _part_with_original(self, job: Job, watch: WatchSettings) -> None:
        def call() -> Any:
            return ending.part_with_original(job, watch)

        def then(result: Any) -> None:
            if isinstance(result, ending.Elsewhere):
                self._desk.update(job, event="archive name taken", original_to=result.target)
                self.step(job.id)
                return
            if watch.after == "archive" and result.moved:
                self._desk.tell("archived", job, to=shown(job.original_to))
            self._end(job, State.DONE, result.event, stays=watch.after == "keep", reason="")
            self._cleared(job.id, job)

        self._hand(job, call, then)

    def _fail(self, job: Job, watch: WatchSettings) -> None:
        uid, wall = self._desk.ledger.uid, self._desk.wall()
        if watch.failed and not job.original_to:

            def choose(place: Any) -> None:
                self._desk.update(job, event="failed folder", original_to=place)
                self.step(job.id)

            self._hand(job, lambda: ending.place_in_failed(job, watch), choose)
            return

        def call() -> Any:
            return ending.fail(job, watch, uid=uid, wall=wall)

        def then(result: Any) -> None:
            if isinstance(result, ending.Elsewhere):
                self._desk.update(job, event="failed name taken", original_to=result.target)
                self.step(job.id)
                return
            self.failures += 1
            log.error(
                "%s: failed %s: %s%s", job.label, shown(job.name), job.reason,
                f" ({job.hint})" if job.hint else "", extra=about(job),
            )  # fmt: skip
            self._desk.tell("failed", job, reason=job.reason, hint=job.hint, fault=job.fault)
            self._end(job, State.FAILED, result.event, stays=not watch.failed, reason=job.reason)
            self._cleared(job.id, job)

        self._hand(job, call, then)

    # --- the end

    def _end(self, job: Job, to: State, event: str, *, stays: bool, reason: str) -> None:
        ended = self._desk.move(job, to, event=event, stays=stays, reason=reason)
        self.not_before.pop(job.id, None)
        if to in (State.SUPERSEDED, State.GONE, State.CANCELLED):
            log.info("%s: %s: %s", job.label, event, reason, extra=about(job))
            self._desk.tell(event, ended, reason=reason)
        self.on_end(ended, stays)

    def _cleared(self, number: int, job: Job | None = None) -> None:
        """The worker holds nothing of this job any more: its scratch and staging can go."""
        job = job or self._desk.ledger.job(number)
        if job is None:
            return
        watch = self._desk.watch_of(job)
        folders = [self._desk.scratch_of(job)]
        if watch is not None:
            folders.append(staging_of(watch.outbox, job.label, self._desk.ledger.uid))

        receipts = watch is not None and watch.receipts

        def remove() -> None:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
            if receipts:
                drop(job.source, root=job.root)

        self._desk.hands.do(job.watch, remove, lambda _done, _error: None)
