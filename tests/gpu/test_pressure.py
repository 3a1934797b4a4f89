"""Our share of the card and the tiers: neighbours, oscillation, deadlines."""

import math
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.reading import Reading
from pipeline.gpu.lines import card_line, check_line, freed_line, pressure_line, tier_line
from pipeline.gpu.pressure import (
    HOST_LIMITS,
    LIMITS,
    Action,
    Limits,
    State,
    Tier,
    capacity,
    host_share,
    share,
    step,
)
from tests.fakes.card import GIB, MIB, FakeCard

sizes = st.integers(0, 1 << 45)
maybe = st.none() | sizes
shares = st.none() | st.floats(0.0, 1.0)
WAITING = (Tier.EMERGENCY, Tier.PAUSED)


def run(
    values: list[float | None],
    *,
    every: float = 1.0,
    limits: Limits = LIMITS,
    state: State | None = None,
) -> list[tuple[float, State, Action | None]]:
    said = []
    state = state or State()
    for number, value in enumerate(values):
        state, action = step(state, value, number * every, limits)
        said.append((number * every, state, action))
    return said


# Share and capacity.


@given(own=maybe, free=maybe, budget=maybe, reserve=sizes)
def test_sizes_are_never_negative(
    own: int | None, free: int | None, budget: int | None, reserve: int
) -> None:
    """Capacity lies between 0 and the budget, a share between 0 and 1, whatever is unknown."""
    reading = Reading(own=own, free=free, host_own=own, host_free=free)
    most = capacity(reading, budget, reserve)
    assert most is None or most >= 0
    assert budget is None or (most is not None and most <= budget)
    for part in (share(reading, budget, reserve), host_share(reading, budget, reserve)):
        assert part is None or 0.0 <= part <= 1.0
        assert (part is None) == (own is None or (bool(own) and most is None))


def test_the_formula() -> None:
    """The share is what we hold of min(budget, own + free − reserve)."""
    reading = Reading(own=6, free=6)
    assert capacity(reading, 8, 2) == 8
    assert capacity(reading, 80, 2) == 10
    assert capacity(reading, None, 2) == 10
    assert share(reading, 8, 2) == 0.75
    assert share(reading, None, 2) == 0.6
    assert share(Reading(own=9, free=0), 8, 0) == 1.0
    assert share(Reading(own=9, free=1), None, 500) == 1.0
    assert capacity(Reading(own=1), None, 0) is None
    assert share(Reading(own=1), None, 0) is None
    assert share(Reading(own=4), 8, 0) == 0.5  # no idea of what is free: the budget counts


def test_a_neighbour_alone_is_no_pressure() -> None:
    """A card that others fill gives a share of 0 as long as we hold nothing."""
    card = FakeCard(12 * GIB, neighbour=12 * GIB)
    assert share(card.reading(), 11 * GIB, 400 * MIB) == 0.0
    card.neighbour = 14 * GIB  # more than there is: a moment between two answers of the driver
    assert share(card.reading(), 11 * GIB, 400 * MIB) == 0.0


@given(st.lists(st.floats(-0.3, 0.3), max_size=60))
def test_a_wandering_neighbour(walk: list[float]) -> None:
    """Free memory that walks by up to 30 % gives valid shares and no wait without a deadline."""
    card = FakeCard(12 * GIB, neighbour=4 * GIB)
    held = card.allocate(2 * GIB)
    state = State()
    for now, change in enumerate(walk):
        card.neighbour = max(0, int(card.neighbour + change * card.total))
        part = share(card.reading(now), 11 * GIB, 400 * MIB)
        assert part is not None
        assert 0.0 <= part <= 1.0
        state, _action = step(state, part, float(now), cleaned=now % 2 == 0)
        assert state.admits == (state.deadline is None) == (state.tier not in WAITING)
    assert held.size == 2 * GIB


def test_a_neighbour_at_95_percent_can_not_hold_us_for_ever() -> None:
    """A neighbour who stays costs two waits: then a fresh worker, which holds nothing, goes on."""
    card = FakeCard(100 * MIB, neighbour=95 * MIB)
    held = card.allocate(5 * MIB)
    state, actions = State(), []
    for now in range(260):
        part = share(card.reading(now))
        state, action = step(state, part, float(now), cleaned=True)
        actions.append(action)
        if action is Action.RECYCLE:
            card.free_all()
    assert held.size
    assert [action for action in actions if action] == [
        Action.EMERGENCY,
        Action.PAUSE,
        Action.RECYCLE,
        Action.RESUME,
    ]
    assert state.tier is Tier.NORMAL
    assert actions.index(Action.RECYCLE) == 120
    assert actions.index(Action.RESUME) <= 135


# Tiers.


def test_tiers_begin_after_two_samples_and_emergency_after_one() -> None:
    """The lower tiers need two samples in a row; emergency acts on the first."""
    assert [state.tier for _now, state, _action in run([0.71, 0.6, 0.71, 0.72])] == [
        Tier.NORMAL,
        Tier.NORMAL,
        Tier.NORMAL,
        Tier.STANDARD,
    ]
    said = run([0.5, 0.85, 0.85, 0.9])
    assert [action for _now, _state, action in said] == [
        None,
        None,
        Action.AGGRESSIVE,
        Action.EMERGENCY,
    ]
    assert run([0.9])[0][2] is Action.EMERGENCY
    assert run([0.7, 0.7])[1][2] is Action.STANDARD


@pytest.mark.parametrize(
    ("rise", "tier", "low", "hold"),
    [(0.75, Tier.STANDARD, 0.61, 10), (0.85, Tier.AGGRESSIVE, 0.71, 10), (0.95, None, 0.79, 10)],
)
def test_a_tier_ends_below_its_back_off(
    rise: float, tier: Tier | None, low: float, hold: int
) -> None:
    """A tier stays until the share has been well below its limit for long enough."""
    begun = run([rise, rise])[-1][1]
    assert begun.tier is (tier or Tier.EMERGENCY)
    stays = run([low + 0.015] * 100, state=begun)
    assert all(state.tier in (begun.tier, Tier.PAUSED) for _now, state, _action in stays)
    ends = run([low] * 40, every=0.5, state=begun)
    first = next(now for now, state, _action in ends if state.tier is not begun.tier)
    assert hold <= first <= hold + 1.5


def test_a_short_dip_does_not_end_a_tier() -> None:
    """One high sample starts the time below the limit anew."""
    begun = run([0.75, 0.75])[-1][1]
    dips = run([0.5, 0.5, 0.5, 0.69] * 30, state=begun)
    assert {state.tier for _now, state, _action in dips} == {Tier.STANDARD}


def changes(said: list[tuple[float, State, Action | None]]) -> list[tuple[float, Tier]]:
    before, found = Tier.NORMAL, []
    for now, state, _action in said:
        if state.tier is not before:
            found.append((now, state.tier))
            before = state.tier
    return found


@pytest.mark.parametrize("limits", [LIMITS, HOST_LIMITS])
@pytest.mark.parametrize("centre", ["standard", "aggressive", "emergency"])
@pytest.mark.parametrize("period", [0.7, 3.0, 11.0, 60.0])
def test_a_sine_around_a_limit_changes_the_tier_once(
    limits: Limits, centre: str, period: float
) -> None:
    """± 5 points around a limit change the tier at most once in 10 s, and soon not at all."""
    middle = getattr(limits, centre)
    waves: list[float | None] = [
        middle + 0.05 * math.sin(math.tau * number * 0.2 / period) for number in range(1500)
    ]
    found = changes(run(waves, every=0.2, limits=limits))
    ordinary = [now for now, tier in found if tier not in WAITING]
    assert all(later - now >= 10.0 for now, later in pairwise(ordinary))
    assert len(ordinary) <= 2
    assert [tier for _now, tier in found].count(Tier.EMERGENCY) <= 1


@given(
    centre=st.floats(0.05, 0.95),
    wobble=st.lists(st.floats(-0.05, 0.05), min_size=1, max_size=120),
    every=st.sampled_from([0.2, 1.0, 3.0, 9.0]),
    start=st.sampled_from([0.0, 0.72, 0.83, 0.97]),
)
def test_no_oscillation_changes_the_tier_twice_in_ten_seconds(
    centre: float, wobble: list[float], every: float, start: float
) -> None:
    """Any wobble of ± 5 points anywhere changes the tier at most once in 10 s.

    The one exception is the way up into emergency, which never waits, and on into the pause.
    """
    begun = run([start, start], every=every)[-1][1]
    begun = msgspec.structs.replace(begun, changed=None)
    values: list[float | None] = [min(1.0, max(0.0, centre + part)) for part in wobble]
    before, last = begun.tier, None
    state = begun
    for number, value in enumerate(values):
        now = 100.0 + number * every
        state, _action = step(state, value, now)
        if state.tier is before:
            continue
        if last is not None and state.tier not in WAITING:
            assert now - last >= 10.0
        before, last = state.tier, now


@given(st.lists(st.tuples(shares, st.floats(0.1, 30.0), st.booleans(), shares), max_size=80))
def test_nothing_waits_without_a_deadline(
    samples: list[tuple[float | None, float, bool, float | None]],
) -> None:
    """In every state that admits nothing a deadline runs, at most one pause ahead, and it acts."""
    state, now = State(), 0.0
    for value, gap, cleaned, stall in samples:
        now += gap
        before = state
        stalled = None if stall is None else 100 * stall
        state, action = step(state, value, now, stalled=stalled, cleaned=cleaned)
        assert (state.deadline is not None) == (state.tier in WAITING)
        if state.deadline is not None:
            assert now < state.deadline <= now + LIMITS.pause_seconds
        if before.deadline is not None and now >= before.deadline:
            assert action in (Action.RECYCLE, Action.CPU, Action.RESUME)
        if value is not None and value >= LIMITS.emergency:
            assert state.tier in WAITING  # within one sample
        assert state.batch(8) in (4, 8)
        assert state.batch(1) == 1


def test_the_way_down_from_emergency() -> None:
    """Cleaned in vain: pause, a fresh worker at the deadline, then the CPU, again and again."""
    state, said = State(), []
    for now in range(400):
        state, action = step(state, 0.95, float(now), cleaned=True)
        if action:
            said.append((now, action, state.tier))
    assert said == [
        (0, Action.EMERGENCY, Tier.EMERGENCY),
        (1, Action.PAUSE, Tier.PAUSED),
        (120, Action.RECYCLE, Tier.PAUSED),
        (240, Action.CPU, Tier.PAUSED),
        (360, Action.CPU, Tier.PAUSED),
    ]
    back = run([0.3] * 12, state=msgspec.structs.replace(state, changed=-100.0))
    assert back[-2][2] is Action.RESUME
    assert back[-1][1] == State(tier=Tier.NORMAL, changed=back[-2][0])


def test_a_cleanup_that_nobody_reports_has_a_deadline_too() -> None:
    """Emergency without word of a cleanup, or with unknown readings, ends in a fresh worker."""
    begun = run([0.95])[0][1]
    said = run([None] * 130, state=begun)
    assert [action for _now, _state, action in said if action] == [Action.RECYCLE]


def test_a_cleanup_that_helped_is_no_pause() -> None:
    """After a cleanup that brought the share down, emergency ends by itself after ten seconds."""
    state, _action = step(State(), 0.95, 0.0)
    said = []
    for now in range(1, 13):
        state, action = step(state, 0.72, float(now), cleaned=True)
        said.append(action)
    assert [action for action in said if action] == [Action.RESUME]
    assert state.tier is Tier.STANDARD  # 0.72 is still above the first limit


def test_stalls_are_an_emergency() -> None:
    """A host that stands still for want of memory is an emergency, whatever our share is."""
    state, action = step(State(), 0.1, 0.0, HOST_LIMITS, stalled=10.1)
    assert action is Action.EMERGENCY
    assert step(State(), 0.1, 0.0, HOST_LIMITS, stalled=10.0)[1] is None
    for now in range(1, 14):
        stalled = 30.0 if now < 3 else 0.0
        state, action = step(state, 0.1, float(now), HOST_LIMITS, stalled=stalled)
    assert action is Action.RESUME
    assert state.admits


def test_unknown_shares_conclude_nothing() -> None:
    """A sample that could not be taken neither begins a tier nor ends one."""
    assert run([0.75, None, 0.75])[-1][1].tier is Tier.NORMAL
    begun = run([0.75, 0.75])[-1][1]
    assert run([0.5, 0.5, 0.5, None] * 10, state=begun)[-1][1].tier is Tier.STANDARD


def test_a_tight_card_halves_the_next_batch() -> None:
    """From aggressive on the next batch is at most half, and never 0."""
    assert State(tier=Tier.STANDARD).batch(5) == 5
    assert State(tier=Tier.AGGRESSIVE).batch(5) == 2
    assert State(tier=Tier.AGGRESSIVE).batch(1) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"standard": 0.8},
        {"emergency": 1.1},
        {"standard": 0.0},
        {"back_off": (0.8, 0.1, 0.1)},
        {"back_off": (-0.1, 0.1, 0.1)},
        {"samples": (0, 2, 1)},
        {"pause_seconds": math.inf},
        {"pause_seconds": 0.0},
    ],
)
def test_impossible_limits_are_refused(wrong: dict[str, object]) -> None:
    """Limits that could not work, or a pause that would not end, are an error at once."""
    with pytest.raises(ValueError):
        msgspec.convert(wrong, Limits)


def test_a_state_survives_the_way_to_the_daemon() -> None:
    """A state can be sent and read back unchanged."""
    for _now, state, _action in run([0.75, 0.75, 0.95, None, 0.2]):
        assert msgspec.json.decode(msgspec.json.encode(state), type=State) == state


# Lines that people search for.


def test_the_lines_of_the_log() -> None:
    """The figures stand in the lines as they did before, so that searches still find them."""
    gb = 1_000_000_000
    assert check_line(int(8.2 * gb), int(2.1 * gb), int(4.7 * gb)) == (
        "Memory check: 8.2GB used, 2.1GB required, 4.7GB available"
    )
    assert check_line(None, gb, None) == (
        "Memory check: unknown used, 1.0GB required, unknown available"
    )
    assert pressure_line(Tier.STANDARD, 0.721) == (
        "Medium memory pressure (72.1%) - performing standard cleanup"
    )
    assert "High memory pressure (83.0%)" in pressure_line(Tier.AGGRESSIVE, 0.83)
    assert "Critical memory pressure (unknown)" in pressure_line(Tier.PAUSED, None)
    assert pressure_line(Tier.NORMAL, 0.1).startswith("Low memory pressure (10.0%)")
    assert freed_line(int(1.8 * gb)) == "GPU memory optimization completed - Freed 1.8GB"
    assert freed_line(-5).endswith("Freed 0.0GB")
    reading = Reading(own=int(2.45 * gb), total=8 * gb)
    assert card_line(reading) == "GPU Memory: 2.45GB / 8.00GB (30.6%)"
    assert card_line(Reading(own=gb, total=0, own_estimated=True)) == (
        "GPU Memory: 1.00GB / 0.00GB (unknown) (estimated)"
    )
    assert tier_line(Tier.NORMAL, Tier.STANDARD, 0.721) == (
        "GPU memory tier: normal -> standard (72.1%)"
    )
