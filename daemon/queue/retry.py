"""What follows from a failed attempt: another one, later or alone, or the end (pure)."""

import msgspec

from daemon.settings import QueueSettings
from daemon.values import Job, Rung
from pipeline.core.contract import Fault

KILLS = 2  # a file that has ended the worker this often gets no third chance
LONGEST_S = 3600.0  # no wait is longer; a share that comes back is found within the hour
_DOUBLINGS = 30  # far beyond LONGEST_S; keeps the power finite for any number of attempts


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """Back into the queue. `suspect`: it runs alone; `counts`: the attempt stays counted."""

    delay_seconds: float
    suspect: bool = False
    counts: bool = True
    rung: Rung | None = None  # where on the ladder the next attempt stands; None: as before


class GiveUp(msgspec.Struct, frozen=True, kw_only=True):
    """The job fails for good; the suffix (may be empty) goes behind the failure's own reason."""

    reason_suffix: str = ""


def after_failure(
    job: Job, fault: Fault, settings: QueueSettings, *, card: bool = False
) -> Retry | GiveUp:
    """What to do with a claimed job whose attempt has failed.

    `job.attempt` and `job.kills` already count this attempt. A cancelled job does not come here.
    """
    # 1. The worker died or hung on it. Perhaps a neighbour did it: once more, alone.
    if fault in (Fault.LOST, Fault.TIMEOUT, Fault.STICKY):
        if job.kills >= KILLS:
            return GiveUp(reason_suffix="it has ended the worker twice")
        return Retry(delay_seconds=0.0, suspect=True)
    # 2. A full disk is nobody's fault: wait for room, the attempt is given back.
    if fault is Fault.NO_SPACE:
        return Retry(delay_seconds=settings.retry_seconds, counts=False)
    # 3. Memory: the worker has tried smaller batches; now a fresh one alone, then without the card.
    if fault is Fault.NO_MEMORY:
        return _next_rung(job, card)
    # 4. The card is lost: the same again, without it.
    if fault is Fault.DEVICE:
        return Retry(delay_seconds=0.0, counts=False)
    # 5. Passing errors: later, each time twice as late, until the attempts are used up.
    if fault is Fault.TRANSIENT:
        if job.attempt >= settings.attempts:
            return GiveUp(reason_suffix=_after(job.attempt))
        return Retry(delay_seconds=_delay_s(job.attempt, settings.retry_seconds))
    # 6. The file itself or a missing engine: the next attempt would end the same way.
    return GiveUp()


def _next_rung(job: Job, card: bool) -> Retry | GiveUp:
    if job.rung is Rung.NORMAL:
        return Retry(delay_seconds=0.0, suspect=True, rung=Rung.FRESH)
    if job.rung is Rung.FRESH and card:
        return Retry(delay_seconds=0.0, suspect=True, rung=Rung.CPU)
    without = job.rung is Rung.CPU
    where = "even without the card" if without else "even alone in a fresh worker"
    return GiveUp(reason_suffix=f"memory did not suffice, {where}")


def _delay_s(attempt: int, first_s: float) -> float:
    doublings = min(max(attempt - 1, 0), _DOUBLINGS)
    return min(first_s * 2.0**doublings, max(LONGEST_S, first_s))


def _after(attempts: int) -> str:
    return "after 1 attempt" if attempts == 1 else f"after {attempts} attempts"
