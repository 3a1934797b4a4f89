"""The queue's deciders: room, turns, retry and recovery, without clock or disk."""

from collections import Counter
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from daemon.queue.admit import Go, Hold, Room, admission, claiming
from daemon.queue.recover import Facts, at_start
from daemon.queue.retry import LONGEST_S, GiveUp, Retry, after_failure
from daemon.queue.schedule import Candidate, next_admissions, next_claim
from daemon.settings import QueueSettings
from daemon.values import ENDED, MOVES, OPEN, Job, Rung, State
from pipeline.core.contract import Fault
from tests.queue.util import job

GB = 10**9
ROOM = Room(
    open_jobs=3, size=64, paused=False, free_bytes=50 * GB, low_bytes=5 * GB, stop_bytes=1 * GB
)


def room(**changes: Any) -> Room:
    return msgspec.structs.replace(ROOM, **changes)


# --- room


def test_there_is_room() -> None:
    """With space and places everything goes on."""
    assert admission(ROOM) == Go()
    assert claiming(ROOM) == Go()


def test_a_full_queue_holds_admissions_only() -> None:
    """At the bound new files wait and queued ones still start."""
    full = room(open_jobs=64)
    held = admission(full)
    assert isinstance(held, Hold)
    assert "64 of 64" in held.why
    assert not held.low
    assert claiming(full) == Go()
    assert admission(room(open_jobs=63)) == Go()


def test_a_pause_holds_claims_only() -> None:
    """While a person has paused, nothing starts, and files still get their place."""
    paused = room(paused=True)
    held = claiming(paused)
    assert isinstance(held, Hold)
    assert "resume" in held.why
    assert admission(paused) == Go()


def test_a_low_disk_holds_admissions_then_claims() -> None:
    """Below the first limit nothing is taken up, below the second nothing is started."""
    low = room(free_bytes=2 * GB)
    held = admission(low)
    assert isinstance(held, Hold)
    assert held.low
    assert "2.0 GB free" in held.why
    assert claiming(low) == Go()
    stopped = claiming(room(free_bytes=GB - 1))
    assert isinstance(stopped, Hold)
    assert stopped.low


@given(free=st.integers(0, 10 * GB), low=st.booleans())
def test_the_low_state_does_not_flicker(free: int, low: bool) -> None:
    """It begins below the limit and ends at 1.1 times the limit."""
    answer = admission(room(free_bytes=free, low=low))
    now_low = isinstance(answer, Hold) and answer.low
    if free < 5 * GB:
        assert now_low
    elif free >= 5.5 * GB:
        assert not now_low
    else:
        assert now_low == low


# --- turns

CANDIDATES = st.lists(
    st.builds(
        Candidate,
        watch=st.sampled_from(["a", "b", "c"]),
        name=st.binary(min_size=1, max_size=3),
        priority=st.integers(-1, 1),
        settled_at=st.integers(0, 20),
    ),
    max_size=30,
)
SERVED = st.dictionaries(st.sampled_from(["a", "b", "c", "gone"]), st.integers(1, 50))


def slowly(
    candidates: list[Candidate], places: int, served: dict[str, int]
) -> list[tuple[int, str, int, bytes]]:
    """The rules word by word: one place after the other."""
    left, turns = list(candidates), dict(served)
    chosen: list[tuple[int, str, int, bytes]] = []
    last = max(turns.values(), default=0)
    while left and len(chosen) < places:
        first = min(
            left,
            key=lambda c: (
                -c.priority,
                turns.get(c.watch, -1),
                min(
                    (o.settled_at, o.name)
                    for o in left
                    if (o.watch, o.priority) == (c.watch, c.priority)
                ),
                c.watch,
                c.settled_at,
                c.name,
            ),
        )
        left.remove(first)
        last += 1
        turns[first.watch] = last
        chosen.append((first.priority, first.watch, first.settled_at, first.name))
    return chosen


@given(candidates=CANDIDATES, places=st.integers(-1, 40), served=SERVED)
def test_places_go_by_the_rules(
    candidates: list[Candidate], places: int, served: dict[str, int]
) -> None:
    """The quick choice is the one that the rules give when followed word by word."""
    before = dict(served)
    chosen = next_admissions(candidates, places, served)
    told = [(c.priority, c.watch, c.settled_at, c.name) for c in chosen]
    assert told == slowly(candidates, places, served)
    assert served == before


@given(places=st.integers(1, 90))
def test_a_flood_does_not_starve_a_neighbour(places: int) -> None:
    """Watches of equal priority get the same number of places, whatever one of them holds."""
    flood = [Candidate(watch="flood", name=b"%d" % n, priority=0, settled_at=n) for n in range(500)]
    few = [Candidate(watch="few", name=b"%d" % n, priority=0, settled_at=999) for n in range(45)]
    got = Counter(c.watch for c in next_admissions(flood + few, places, {}))
    assert got["few"] in (places // 2, places - places // 2)


def test_ten_thousand_candidates_in_small_calls() -> None:
    """All files get their place once, first come first served, when taken a few at a time."""
    waiting = [
        Candidate(watch=f"w{n % 7}", name=b"%d" % n, priority=0, settled_at=n)
        for n in range(10_000)
    ]
    served: dict[str, int] = {}
    for turn in range(5):
        chosen = next_admissions(waiting, 14, served)
        assert sorted(c.settled_at for c in chosen) == list(range(turn * 14, turn * 14 + 14))
        for candidate in chosen:
            served[candidate.watch] = len(served) + turn * 100
        waiting = [c for c in waiting if c not in set(chosen)]
    assert len(next_admissions(waiting, 10_000, served)) == 10_000 - 70


def claim(queued: list[Job], running: list[Job] | None = None, **changes: Any) -> int | None:
    facts: dict[str, Any] = {
        "lanes": 2, "served": {}, "now": 100.0, "not_before": {}, "suspects": frozenset(),
    }  # fmt: skip
    found = next_claim(queued, running or [], **(facts | changes))
    return found.id if found else None


def test_claims_go_by_priority_turn_and_arrival() -> None:
    """Higher priority first, then the watch served longest ago, then the older job."""
    a, b, c = job(1, watch="a"), job(2, watch="b"), job(3, watch="a", priority=5)
    assert claim([a, b, c]) == 3
    assert claim([a, b]) == 1
    assert claim([a, b], served={"a": 4, "b": 3}) == 2
    assert claim([a, b], served={"a": 4}) == 2
    assert claim([]) is None


def test_claims_wait_for_lanes_and_time() -> None:
    """Nothing starts without a free lane or before its waiting time is over."""
    a, b = job(1), job(2)
    assert claim([a], [job(8), job(9)]) is None
    assert claim([a, b], not_before={1: 100.5}) == 2
    assert claim([a, b], not_before={1: 100.0}) == 1
    assert claim([a], not_before={1: 100.5}) is None


def test_a_suspect_runs_alone() -> None:
    """A job that was there when the worker died never has company, and is not passed over."""
    suspect, other = job(1), job(2)
    assert claim([suspect, other], suspects={1}) == 1
    assert claim([suspect, other], [job(9)], suspects={1}) is None
    assert claim([other], [job(9)], suspects={9}) is None
    assert claim([other], [job(9)], suspects={1}) == 2


@given(
    queued=st.lists(st.integers(1, 9), unique=True),
    running=st.lists(st.integers(11, 14), unique=True),
    suspects=st.frozensets(st.integers(1, 14)),
    lanes=st.integers(1, 4),
)
def test_no_claim_breaks_the_rules(
    queued: list[int], running: list[int], suspects: frozenset[int], lanes: int
) -> None:
    """Whatever is queued and runs, lanes and solitude are kept, and an idle worker gets work."""
    found = claim(
        [job(n) for n in queued], [job(n) for n in running], suspects=suspects, lanes=lanes
    )
    if found is not None:
        assert found in queued
        assert len(running) < lanes
        assert not (running and found in suspects)
        assert not suspects & set(running)
    elif queued:
        assert running


# --- retry

SETTINGS = QueueSettings(attempts=3, retry_seconds=30.0)


def after(fault: Fault, attempt: int = 1, kills: int = 0) -> Retry | GiveUp:
    return after_failure(job(attempt=attempt, kills=kills), fault, SETTINGS)


@pytest.mark.parametrize("fault", [Fault.BAD_INPUT, Fault.MISSING, Fault.CANCELLED])
def test_what_can_not_change_is_not_repeated(fault: Fault) -> None:
    """A bad file or a missing engine fails at once."""
    assert after(fault) == GiveUp()


def test_passing_errors_wait_longer_each_time() -> None:
    """Waits double until the attempts are used up."""
    fault = Fault.TRANSIENT
    assert after(fault, 1) == Retry(delay_seconds=30.0)
    assert after(fault, 2) == Retry(delay_seconds=60.0)
    assert after(fault, 3) == GiveUp(reason_suffix="after 3 attempts")


def test_a_full_disk_costs_nothing() -> None:
    """However often the disk is full, the file gets its attempts back."""
    for attempt in (1, 3, 50):
        assert after(Fault.NO_SPACE, attempt) == Retry(delay_seconds=30.0, counts=False)


@pytest.mark.parametrize("card", [True, False])
def test_the_ladder_ends(card: bool) -> None:
    """After smaller batches come a fresh worker, then (with a card) the CPU, then quarantine."""
    rungs = []
    now = job(attempt=1)
    while isinstance(verdict := after_failure(now, Fault.NO_MEMORY, SETTINGS, card=card), Retry):
        assert verdict.suspect
        assert verdict.rung is not None
        rungs.append(verdict.rung)
        now = job(attempt=now.attempt + 1, rung=verdict.rung)
    assert rungs == ([Rung.FRESH, Rung.CPU] if card else [Rung.FRESH])
    assert "memory did not suffice" in verdict.reason_suffix


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.TIMEOUT, Fault.STICKY])
def test_a_file_that_kills_twice_is_out(fault: Fault) -> None:
    """After the first dead worker the file runs alone, after the second it fails."""
    assert after(fault, 3, kills=1) == Retry(delay_seconds=0.0, suspect=True)
    assert after(fault, 2, kills=2) == GiveUp(reason_suffix="it has ended the worker twice")


@given(
    fault=st.sampled_from(Fault),
    attempt=st.integers(0, 10**6),
    kills=st.integers(0, 9),
    settings=st.builds(
        QueueSettings,
        attempts=st.integers(1, 10**7),
        retry_seconds=st.floats(0, 1e6),
    ),
)
def test_every_wait_is_bounded(
    fault: Fault, attempt: int, kills: int, settings: QueueSettings
) -> None:
    """No number of attempts makes a wait negative, endless or an error."""
    answer = after_failure(job(attempt=attempt, kills=kills), fault, settings)
    if isinstance(answer, Retry):
        assert 0.0 <= answer.delay_seconds <= max(LONGEST_S, settings.retry_seconds)


# --- recovery

LOOKS = [
    Facts(staging_there=staging, target_ours=ours, source=source)
    for staging in (False, True)
    for ours in (False, True)
    for source in (None, job().sighting)
]


@pytest.mark.parametrize("facts", LOOKS)
def test_the_table_of_restarts(facts: Facts) -> None:
    """Each open state goes on where the disk says it had come to."""
    expected = {
        State.QUEUED: State.QUEUED,
        State.CLAIMED: State.QUEUED,
        State.PUBLISHED: State.PUBLISHED,
        State.FAILING: State.FAILING,
        State.STAGED: (
            State.PUBLISHED
            if facts.target_ours
            else State.STAGED
            if facts.staging_there
            else State.QUEUED
        ),
    }
    assert expected.keys() == OPEN
    for state, to in expected.items():
        answer = at_start(job(state=state), facts)
        assert answer.to is to
        assert answer.why
        assert to is state or to in MOVES[state]


def test_an_ended_job_is_left_alone() -> None:
    """A restart moves nothing that has ended."""
    for state in ENDED:
        assert at_start(job(state=state), LOOKS[-1]).to is state


def test_a_restart_says_what_became_of_the_file() -> None:
    """The reason tells a file that is away or changed from one that is there."""
    here = job().sighting
    assert "changed" not in at_start(job(), Facts(source=here)).why
    other = msgspec.structs.replace(here, size=11)
    assert "has changed" in at_start(job(state=State.CLAIMED), Facts(source=other)).why
    assert "not to be seen" in at_start(job(), Facts()).why
