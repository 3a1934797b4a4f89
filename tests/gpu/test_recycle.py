"""When a worker has aged: every rule at its edge, and the slope that finds leaks."""

import random
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.reading import Reading
from pipeline.gpu.recycle import Life, RecycleLimits, outside, reason_to_recycle, slope
from tests.fakes.card import GIB, MIB, FakeCard


def climb(per_file: int, files: int = 30, start: int = GIB) -> tuple[int, ...]:
    return tuple(start + per_file * number for number in range(files))


def test_a_young_worker_stays() -> None:
    """Nothing known, or everything in order, is no reason."""
    assert reason_to_recycle(Life()) == ""
    fine = Life(
        age_seconds=3600,
        files=100,
        allocated=GIB,
        reserved=GIB + 100 * MIB,
        capacity=10 * GIB,
        outside_at_start=500 * MIB,
        outside=900 * MIB,
        floors=climb(MIB, 100),
        residents=climb(MIB, 100),
        host_limit=16 * GIB,
    )
    assert reason_to_recycle(fine) == ""


@pytest.mark.parametrize(
    ("over", "within", "word"),
    [
        ({"sticky": "an illegal memory access was encountered"}, {}, "broken"),
        ({"surviving": ("whisper small",)}, {}, "whisper small"),
        (
            {"reserved": 21, "allocated": 0, "capacity": 100},
            {"reserved": 20, "allocated": 0, "capacity": 100},
            "fragmented",
        ),
        (
            {"outside_at_start": 1, "outside": 2 + 512 * MIB},
            {"outside_at_start": 1, "outside": 1 + 512 * MIB},
            "outside the framework",
        ),
        ({"floors": climb(6 * MIB)}, {"floors": climb(5 * MIB)}, "card's memory leaks"),
        ({"floors": climb(6 * MIB)}, {"floors": climb(600 * MIB, 29)}, "card's memory leaks"),
        ({"residents": climb(11 * MIB)}, {"residents": climb(10 * MIB)}, "RAM leaks"),
        (
            {"residents": (61,), "host_limit": 100},
            {"residents": (60,), "host_limit": 100},
            "held, of",
        ),
        ({"files": 500}, {"files": 499}, "500 files"),
        ({"age_seconds": 86400.0}, {"age_seconds": 86399.0}, "24 hours"),
    ],
)
def test_each_rule_at_its_edge(over: dict[str, Any], within: dict[str, Any], word: str) -> None:
    """Each rule says why beyond its limit, with the figure, and is silent at it."""
    assert word in reason_to_recycle(Life(**over))
    assert reason_to_recycle(Life(**within)) == ""


def test_what_is_unknown_is_no_reason() -> None:
    """A rule with one of its figures missing says nothing."""
    assert reason_to_recycle(Life(reserved=9, capacity=10)) == ""
    assert reason_to_recycle(Life(reserved=9, allocated=0, capacity=0)) == ""
    assert reason_to_recycle(Life(outside=9 * GIB)) == ""
    assert reason_to_recycle(Life(residents=(9 * GIB,))) == ""


def test_only_the_last_files_count_for_a_leak() -> None:
    """A rise long ago, such as the first models, is no leak; a new one is found."""
    warm = climb(50 * MIB, 30) + (3 * GIB,) * 40
    assert reason_to_recycle(Life(floors=warm)) == ""
    leaking = (GIB,) * 100 + climb(20 * MIB, 30)
    assert "leaks" in reason_to_recycle(Life(floors=leaking))


def test_limits_can_be_set() -> None:
    """Every figure of the rules comes from the limits given."""
    strict = RecycleLimits(files=3, window=2, card_per_file=0)
    assert "3 files" in reason_to_recycle(Life(files=3), strict)
    assert "leaks" in reason_to_recycle(Life(floors=(1, 2)), strict)


def test_an_error_text_can_not_forge_a_line() -> None:
    """A text from a library stays one line."""
    assert "\n" not in reason_to_recycle(Life(sticky="bad\nMay 1 host: all is well"))
    assert "\n" not in reason_to_recycle(Life(surviving=("a\nb",)))


def test_the_slope_of_a_line_is_found_through_noise() -> None:
    """Noise and a few wild outliers do not hide a leak, nor make one."""
    dice = random.Random(7)
    for rise in (0.0, 8.0):
        values = [rise * number + dice.gauss(0, 3) for number in range(30)]
        for wild in (3, 11, 19, 28):
            values[wild] += 5000
        assert abs(slope(values) - rise) < 1.0


@given(st.lists(st.integers(-(2**50), 2**50), max_size=40), st.integers(-1000, 1000))
def test_the_slope_is_a_slope(values: list[int], rise: int) -> None:
    """Turned upside down it is negated; of a straight line it is the rise; of a point 0."""
    assert slope([-value for value in values]) == -slope(values)
    assert slope([7 + rise * number for number in range(12)]) == rise
    assert slope(values[:1]) == 0.0
    if len(values) > 1:
        steps = [b - a for a, b in pairwise(values)]
        assert min(steps) - 1 <= slope(values) <= max(steps) + 1


@given(
    st.builds(
        Life,
        age_seconds=st.floats(0, 1e7),
        files=st.integers(0, 10**6),
        allocated=st.none() | st.integers(0, 2**45),
        reserved=st.none() | st.integers(0, 2**45),
        capacity=st.none() | st.integers(0, 2**45),
        outside=st.none() | st.integers(0, 2**45),
        outside_at_start=st.none() | st.integers(0, 2**45),
        floors=st.lists(st.integers(0, 2**45), max_size=35).map(tuple),
        residents=st.lists(st.integers(0, 2**45), max_size=35).map(tuple),
        host_limit=st.none() | st.integers(0, 2**45),
    )
)
def test_every_life_has_a_verdict(life: Life) -> None:
    """No figures make the rules fail; a sticky error or a surviving model always counts."""
    reason_to_recycle(life)
    assert reason_to_recycle(msgspec.structs.replace(life, sticky="x"))
    assert reason_to_recycle(msgspec.structs.replace(life, surviving=("x",)))


def test_what_lies_outside_the_framework() -> None:
    """Contexts and other libraries are what the driver counts and the framework does not know."""
    card = FakeCard(12 * GIB, context=500 * MIB)
    with card.use(GIB):
        card.outside = 100 * MIB
        assert outside(card.reading()) == 600 * MIB
    assert outside(Reading(own=9, reserved=2, own_estimated=True)) is None
    assert outside(Reading(own=9, reserved=2, unified=True)) is None
    assert outside(Reading(own=9)) is None
    assert outside(Reading(own=1, reserved=2)) == 0


def test_a_leaking_library_is_found_on_a_card() -> None:
    """A library that keeps 40 MiB a file is named before the card is full."""
    card = FakeCard(12 * GIB, context=500 * MIB)
    first: int | None = None
    for number in range(1, 200):
        with card.use(GIB):
            card.outside += 40 * MIB
        card.empty_cache()
        now = outside(card.reading())
        first = now if first is None else first
        reason = reason_to_recycle(Life(files=number, outside_at_start=first, outside=now))
        if reason:
            break
    assert number == 14
    assert "grown by 545" in reason
