"""The learned peak: cold start, growth, bounds, and that the same shape never runs out twice."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import batch_choice
from pipeline.gpu.peaks import COLD_BATCH, PeakModel, fit_relative
from pipeline.gpu.values import GIB, MIB, Features, Observation

ROOMY = 10**15
SHORT = Features(seconds=60.0, pixels=1_000_000)


def ran(batch: int, peak: int, features: Features = SHORT) -> Observation:
    return Observation(batch=batch, features=features, peak=peak, seconds=2.0)


def out(batch: int, had: int, features: Features = SHORT) -> Observation:
    return Observation(batch=batch, features=features, peak=had, seconds=0.5, oom=True)


def taught(runs: int = 40, noise: float = 0.0) -> PeakModel:
    """A model of 2 GiB + 0.5 GiB an item + 10 MiB a minute."""
    draw = random.Random(7)
    model = PeakModel()
    for number in range(runs):
        features = Features(seconds=60.0 * draw.randint(1, 60))
        batch = 1 + number % 8
        stray = 1.0 + draw.uniform(-noise, noise)
        model.add(ran(batch, round(truth(batch, features) * stray), features))
    return model


def truth(batch: int, features: Features) -> int:
    return round(2 * GIB + batch * GIB / 2 + features.seconds / 60 * 10 * MIB)


features_of = st.builds(
    Features,
    seconds=st.floats(0, 36_000),
    pixels=st.sampled_from([0, 500_000, 2_000_000]),
    frames=st.integers(0, 100_000),
)
runs_of = st.builds(
    Observation,
    batch=st.integers(1, 64),
    features=features_of,
    peak=st.integers(1, 80 * GIB),
    seconds=st.floats(0, 1000),
    oom=st.booleans(),
)


def test_starts_cold() -> None:
    """Without a past the first run is alone, the next ones at most a pair, and no bound is told."""
    model = PeakModel()
    assert model.bound(1, SHORT) is None
    assert model.largest_batch(ROOMY, SHORT, 32) == 1
    model.add(ran(1, GIB))
    assert model.largest_batch(ROOMY, SHORT, 32) == COLD_BATCH


def test_grows_at_most_double() -> None:
    """However much room there is, a batch is at most twice the largest that has succeeded."""
    model = PeakModel()
    largest = 1
    for _run in range(12):
        batch = model.largest_batch(ROOMY, SHORT, 64)
        assert batch <= 2 * largest
        largest = max(largest, batch)
        model.add(ran(batch, GIB + batch * MIB))
    assert largest == 64


def test_does_not_leap_to_other_media() -> None:
    """What succeeded on short or small media says little about media many times as large."""
    model = taught()
    day = Features(seconds=86_400.0)
    assert model.largest_batch(ROOMY, Features(seconds=3600.0), 64) == 16
    assert model.largest_batch(ROOMY, day, 64) <= COLD_BATCH
    wide = PeakModel([ran(8, GIB, Features(pixels=1_000_000))] * 5)
    assert wide.largest_batch(ROOMY, Features(pixels=4_000_000), 64) == 4


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_bound_covers_and_stays_close(noise: float) -> None:
    """The bound lies above the true peak, by at most 15 % on average."""
    model = taught(400, noise)
    excess = []
    for batch in range(1, 9):
        for minutes in (1, 20, 60):
            features = Features(seconds=60.0 * minutes)
            bound = model.bound(batch, features)
            assert bound is not None
            excess.append(bound / truth(batch, features) - 1.0)
    assert min(excess) > 0.0
    assert np.mean(excess) < 0.15


def test_chosen_batch_fits() -> None:
    """The choice fits by its bound, and one more would not (or was never tried)."""
    model = taught(100)
    features = Features(seconds=600.0)
    batch = model.largest_batch(5 * GIB, features, 64)
    bounds = [model.bound(batch, features), model.bound(batch + 1, features)]
    assert bounds[0] is not None
    assert bounds[1] is not None
    assert bounds[0] <= 5 * GIB < bounds[1]


def test_nothing_fits() -> None:
    """Where not even one item fits, the answer is 0."""
    assert taught().largest_batch(GIB, SHORT, 8) == 0
    assert taught().largest_batch(-GIB, SHORT, 8) == 0
    assert taught().largest_batch(ROOMY, SHORT, 0) == 0


def test_oom_blocks_its_shape_for_good() -> None:
    """A shape that ran out is never admitted at that batch or above, however much room there is."""
    model = taught(100)
    odd = Features(seconds=601.0)
    model.add(out(4, 8 * GIB, odd))
    assert model.largest_batch(ROOMY, odd, 64) == 3
    assert model.is_blocked(4, odd)
    assert model.is_blocked(9, odd)
    assert not model.is_blocked(3, odd)
    for _run in range(50):
        model.add(ran(8, 3 * GIB, Features(seconds=3600.0)))
    assert model.largest_batch(ROOMY, odd, 64) == 3


def test_oom_bounds_what_is_larger() -> None:
    """What is as large or larger in every way needs 1.05 of what the OOM had."""
    model = taught(100)
    model.add(out(4, 6 * GIB, Features(seconds=600.0)))
    longer = Features(seconds=900.0)
    bound = model.bound(4, longer)
    assert bound is not None
    assert bound >= 1.05 * 6 * GIB
    assert model.largest_batch(6 * GIB, longer, 64) < 4


def test_a_freak_oom_is_refuted() -> None:
    """Once more than that succeeded with less, an OOM binds only its own shape."""
    model = taught(100)
    model.add(out(2, 9 * GIB, Features(seconds=60.0)))
    other = Features(seconds=120.0)
    assert model.largest_batch(9 * GIB, other, 8) == 1
    model.add(ran(4, truth(4, other), other))
    assert model.largest_batch(9 * GIB, other, 8) > 2


def test_an_oom_lifts_the_fit() -> None:
    """Runs that ran out where the fit promised room raise the bound at once."""
    model = taught(40)
    features = Features(seconds=60.0)
    before = model.bound(8, Features(seconds=1.0))
    model.add(out(8, 2 * truth(8, features), features))
    after = model.bound(8, Features(seconds=1.0))
    assert before is not None
    assert after is not None
    assert after > before


def test_past_is_taken_up() -> None:
    """A model made of a past chooses like the one that lived it."""
    draw = random.Random(3)
    past = [
        ran(b := draw.randint(1, 8), truth(b, SHORT) + draw.randint(0, 99 * MIB)) for _ in range(40)
    ]
    lived = PeakModel()
    for run in past:
        lived.add(run)
    read = PeakModel(past)
    assert read.largest_batch(5 * GIB, SHORT, 64) == lived.largest_batch(5 * GIB, SHORT, 64)
    assert read.bound(4, SHORT) == lived.bound(4, SHORT)


def test_summary() -> None:
    """The summary tells success, mean memory and mean seconds of each batch size."""
    model = PeakModel([ran(2, 4 * GIB), ran(2, 6 * GIB), out(2, GIB), ran(1, GIB)])
    one, two = model.summary()
    assert (one.batch, one.runs, one.success) == (1, 1, 1.0)
    assert (two.runs, two.ooms, two.peak, two.seconds) == (3, 1, 5 * GIB, 2.0)


@pytest.mark.parametrize(
    "broken",
    [
        Observation(batch=0, features=SHORT, peak=GIB, seconds=1.0),
        Observation(batch=1, features=SHORT, peak=0, seconds=1.0),
        Observation(batch=1, features=Features(seconds=float("nan")), peak=GIB, seconds=1.0),
        Observation(batch=1, features=Features(pixels=-1), peak=GIB, seconds=1.0),
    ],
)
def test_broken_figures_teach_nothing(broken: Observation) -> None:
    """A probe that failed or a broken header changes nothing."""
    model = taught(40)
    before = model.bound(4, SHORT)
    model.add(broken)
    assert model.bound(4, SHORT) == before
    assert model.bound(1, Features(seconds=float("nan"))) is None
    assert model.largest_batch(ROOMY, Features(seconds=float("inf")), 8) <= COLD_BATCH


@given(st.lists(runs_of, max_size=60), features_of, st.integers(0, 100 * GIB), st.integers(0, 64))
def test_choice_keeps_its_promises(
    past: list[Observation], features: Features, left: int, most: int
) -> None:
    """Whatever the past: in range, never blocked, never above its bound, never more for less."""
    model = PeakModel()
    for run in past:
        model.add(run)
    batch = model.largest_batch(left, features, most)
    assert 0 <= batch <= most
    if batch:
        assert not model.is_blocked(batch, features)
        bound = model.bound(batch, features)
        assert bound is None or bound <= left
    assert model.largest_batch(left // 2, features, most) <= batch
    for run in past:
        if run.oom:
            assert model.largest_batch(ROOMY, run.features, 64) < run.batch


@given(st.lists(runs_of, min_size=3, max_size=40), features_of, st.integers(1, 32))
def test_bound_grows_with_the_batch(
    past: list[Observation], features: Features, batch: int
) -> None:
    """A larger batch never has a smaller bound, nor longer media."""
    model = PeakModel(past)
    here = model.bound(batch, features)
    if here is None:
        return
    more = model.bound(batch + 1, features)
    longer = model.bound(
        batch,
        Features(seconds=features.seconds + 60, pixels=features.pixels, frames=features.frames),
    )
    assert more is not None
    assert longer is not None
    assert here <= more
    assert here <= longer


@given(st.integers(0, 10_000))
def test_fit_is_the_best_nonnegative_one(seed: int) -> None:
    """No factor is negative, and no small step in any direction would be better."""
    draw = np.random.default_rng(seed)
    rows = draw.uniform(0, 1, (12, 4))
    rows[:, 3] = rows[:, 0] * draw.integers(0, 2)  # a copy, or a column of zeros
    wanted = rows @ draw.uniform(-1, 2, 4) + draw.uniform(2, 3, 12)
    factors = fit_relative(rows, wanted)
    assert (factors >= 0).all()
    assert np.isfinite(factors).all()

    def error(tried: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
        return float((((rows @ tried - wanted) / wanted) ** 2).sum())

    for column in range(4):
        for step in (1e-3, -1e-3):
            moved = factors.copy()
            moved[column] = max(0.0, moved[column] + step)
            assert error(moved) >= error(factors) - 1e-7


def test_beats_the_tables_on_a_small_simulation() -> None:
    """On 2 000 simulated files: at least 0.85 of the best batch, few OOMs, none twice."""
    score = batch_choice.run(batch_choice.Learned(), 2000, seed=1)
    assert sum(score.shares) / len(score.shares) >= 0.85
    assert score.ooms <= 6
    assert score.repeats == 0


@pytest.mark.slow
def test_four_policies_on_ten_thousand_files(capsys: pytest.CaptureFixture[str]) -> None:
    """On 10 000 files the model meets its goal and beats the three others; prints the table."""
    table = batch_choice.compare(10_000, range(5))
    with capsys.disabled():
        print("\n" + batch_choice.report(table, 10_000, 5))
    ours = table.pop(batch_choice.Learned.name)
    assert ours["repeats"] == 0
    assert ours["share"] / 5 >= 0.85
    assert ours["late"] / 5 <= 10  # one in a thousand
    assert all(ours["share"] > other["share"] for other in table.values())
    assert all(ours["ooms"] < other["ooms"] for other in table.values())
