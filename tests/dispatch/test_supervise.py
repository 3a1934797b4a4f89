"""The rules of supervision, with time as an argument."""

from hypothesis import given
from hypothesis import strategies as st

from daemon.dispatch.supervise import InFlight, overdue, restart_pause
from daemon.settings import WorkerSettings

LIMITS = WorkerSettings(time_limit_hours=1.0, hang_seconds=100.0, silent_seconds=10.0)


def test_a_working_job_is_left_alone() -> None:
    """A job that moved lately, in a worker that lives, within its time, is not overdue."""
    flight = InFlight(job=1, started_at=0.0, step_at=3590.0)
    assert overdue([flight], alive_at=3595.0, now=3600.0, limits=LIMITS) is None


def test_each_limit_has_its_reason() -> None:
    """Silence, the time limit and a standstill are told apart, and the job is named."""
    flight = InFlight(job=1, started_at=0.0, step_at=0.0)
    silent = overdue([flight], alive_at=0.0, now=11.0, limits=LIMITS)
    assert silent is not None
    assert "silent" in silent.reason
    assert silent.job == 1
    hung = overdue([flight], alive_at=101.0, now=101.0, limits=LIMITS)
    assert hung is not None
    assert "no step" in hung.reason
    moving = InFlight(job=1, started_at=0.0, step_at=3601.0)
    late = overdue([moving], alive_at=3601.0, now=3601.0, limits=LIMITS)
    assert late is not None
    assert "limit" in late.reason


def test_silence_with_several_jobs_blames_nobody() -> None:
    """When two jobs share a silent worker, neither is named as the culprit."""
    flights = [InFlight(job=number, started_at=0.0, step_at=0.0) for number in (1, 2)]
    verdict = overdue(flights, alive_at=0.0, now=11.0, limits=LIMITS)
    assert verdict is not None
    assert verdict.job is None


def test_an_idle_worker_may_be_silent() -> None:
    """Without a job in flight nothing is overdue."""
    assert overdue([], alive_at=0.0, now=1e6, limits=LIMITS) is None


@given(st.lists(st.floats(0, 1000), max_size=30))
def test_restart_pauses_are_bounded(ends: list[float]) -> None:
    """However often the worker ends, the pause is between nothing and a minute."""
    assert 0.0 <= restart_pause(ends, 1000.0) <= 60.0


def test_restart_pauses_grow_and_are_forgotten() -> None:
    """Three ends are free, then pauses double; after ten quiet minutes the count is clear."""
    assert restart_pause([0, 1, 2], 3) == 0.0
    assert [restart_pause([0] * count, 3) for count in (4, 5, 6, 20)] == [1.0, 2.0, 4.0, 60.0]
    assert restart_pause([0] * 20, 700) == 0.0
