"""When the worker is overdue, and how long to wait before the next one: pure rules."""

from collections.abc import Iterable, Sequence

import msgspec

from daemon.settings import WorkerSettings
from pipeline.core.text import human_seconds

RESTART_WINDOW_S = 600.0
FREE_RESTARTS = 3  # within the window; after that each costs a pause
LONGEST_PAUSE_S = 60.0


class InFlight(msgspec.Struct, frozen=True, kw_only=True):
    """One order that the worker holds. Times are monotonic seconds."""

    job: int
    started_at: float
    step_at: float  # last time that the job moved on


class Overdue(msgspec.Struct, frozen=True, kw_only=True):
    """Why the worker has to be killed, and which job is to blame (None: unknown)."""

    job: int | None
    reason: str


def overdue(
    flights: Iterable[InFlight], alive_at: float, now: float, limits: WorkerSettings
) -> Overdue | None:
    """The first reason to end the worker, if there is one."""
    flights = list(flights)
    # 1. No sign of life at all: stopped, swapped out, or stuck in one library call.
    if flights and now - alive_at > limits.silent_seconds:
        return Overdue(
            job=flights[0].job if len(flights) == 1 else None,
            reason=f"the worker was silent for {human_seconds(now - alive_at)}",
        )
    for flight in flights:
        # 2. The file has had its time.
        limit_s = limits.time_limit_hours * 3600
        if now - flight.started_at > limit_s:
            return Overdue(
                job=flight.job, reason=f"it took longer than the limit of {human_seconds(limit_s)}"
            )
        # 3. Alive, but this job does not move.
        if now - flight.step_at > limits.hang_seconds:
            return Overdue(
                job=flight.job,
                reason=f"it made no step for {human_seconds(now - flight.step_at)}",
            )
    return None


def restart_pause(restarts: Sequence[float], now: float) -> float:
    """Seconds to wait before the next start, from the times of the unwanted ends so far.

    The first few within ten minutes are free; then the pause doubles up to a minute, so that a
    broken installation does not spin.
    """
    recent = [moment for moment in restarts if now - moment <= RESTART_WINDOW_S]
    over = len(recent) - FREE_RESTARTS
    return 0.0 if over <= 0 else min(LONGEST_PAUSE_S, 2.0 ** (over - 1))
