"""Whether a stage used the card: verified, not used, or which signal is missing; never guessed."""

from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.reading import Reading
from pipeline.gpu.verdict import Counters, Verdict, Word, of_stage, warning
from tests.fakes.card import GIB, MIB, FakeCard

WEIGHTS = GIB
USED = Counters(allocations=12, before=0, peak=GIB)
UNUSED = Counters(allocations=0, before=GIB, peak=GIB)


def seen(count: int = 5, **fields: Any) -> list[Reading]:
    base = {
        "total": 12 * GIB,
        "free": 8 * GIB,
        "own": 2 * GIB,
        "listed": True,
        "others": 0,
        "gpu_percent": 0,
        "own_percent": 0,
    }
    return [Reading(**{**base, **fields}) for _number in range(count)]


ABSENT: dict[str, Any] = {"listed": False, "own": 0}
UNREADABLE: dict[str, Any] = {"listed": None, "own": None, "others": None, "own_percent": None}


@pytest.mark.parametrize(
    ("samples", "counters"),
    [
        (seen(own_percent=40), None),
        (seen(gpu_percent=90, own_percent=None), None),
        (seen(), USED),
        (seen(2, own_percent=None, gpu_percent=None), USED),
        (seen(**UNREADABLE), USED),  # a container or WSL: the framework's own word is enough
        ([], USED),
    ],
)
def test_a_stage_on_the_card_is_verified(samples: list[Reading], counters: Counters | None) -> None:
    """Our process with its weights on the card, and one sign of work, is enough."""
    verdict = of_stage("cuda", samples, counters=counters, weights=WEIGHTS)
    assert verdict.word is Word.VERIFIED
    assert verdict.evidence
    assert verdict.missing == ""
    assert warning("transcribe", verdict) == ""


@pytest.mark.parametrize(
    ("samples", "counters", "ran_on"),
    [
        (seen(**ABSENT), None, ""),
        (seen(**ABSENT), UNUSED, ""),
        (seen(**ABSENT, own_percent=None, gpu_percent=None), UNUSED, ""),
        (seen(**UNREADABLE), UNUSED, ""),  # a container: card and framework both say no
        (seen(), UNUSED, ""),  # listed because of an earlier stage's model
        (seen(own_percent=40), None, "cpu"),  # another lane works; the engine itself knows better
        ([], None, "cpu"),
    ],
)
def test_a_stage_beside_the_card_is_found(
    samples: list[Reading], counters: Counters | None, ran_on: str
) -> None:
    """Where all signals can be read and say no, the stage did not use the card, loudly."""
    verdict = of_stage("cuda:0", samples, counters=counters, weights=WEIGHTS, ran_on=ran_on)
    assert verdict.word is Word.NOT_USED
    assert warning("lipsync", verdict).startswith("lipsync was meant for the card and ran without")


@pytest.mark.parametrize(
    ("samples", "counters", "missing"),
    [
        ([], None, "does not list"),
        (seen(**UNREADABLE), None, "does not list"),
        (seen(**UNREADABLE, gpu_percent=50), UNUSED, "does not list"),
        (seen(2, **ABSENT), None, "only 2 looks"),
        (seen(), None, "allocator counters"),  # listed, but perhaps because of another model
        (seen(3), None, "only 2 samples"),
        (seen(**ABSENT, own_percent=None, gpu_percent=None), None, "does not tell"),
        (seen(**{**ABSENT, "others": 2}, gpu_percent=50, own_percent=None), None, "others use it"),
        (seen(own=10 * MIB, own_percent=40), None, "expected"),
        (seen(own=None, own_percent=40), None, "what our processes hold"),
        (seen(**ABSENT), USED, "disagree"),
        (seen(own_percent=40), UNUSED, "disagree"),
    ],
)
def test_what_can_not_be_told_is_named(
    samples: list[Reading], counters: Counters | None, missing: str
) -> None:
    """Where a signal is missing or the signals disagree, the verdict says so and accuses nobody."""
    verdict = of_stage("cuda", samples, counters=counters, weights=WEIGHTS)
    assert verdict.word is Word.UNVERIFIED
    assert missing in verdict.missing
    assert missing in warning("x", verdict)
    assert str(verdict) == f"unverified ({verdict.missing})"


def test_the_cpu_by_choice_is_no_question() -> None:
    """A stage that was not meant for the card gets no verdict and no warning."""
    verdict = of_stage("cpu", seen())
    assert verdict.word is Word.NOT_APPLICABLE
    assert warning("vad", verdict) == ""


def test_use_before_the_stage_does_not_count() -> None:
    """The first sample tells of the time before: its use is another stage's."""
    samples = [*seen(1, own_percent=90, gpu_percent=90), *seen(4)]
    assert of_stage("cuda", samples, counters=UNUSED, weights=WEIGHTS).word is Word.NOT_USED


@pytest.mark.parametrize(
    ("sessions", "word"),
    [
        ([0, 1, 0], Word.VERIFIED),
        ([0, 0, 0, 0], Word.NOT_USED),
        ([1, 0, 0], Word.UNVERIFIED),
        ([None, None, None, None], Word.UNVERIFIED),
        ([0, None, 0, 0], Word.UNVERIFIED),
        ([], Word.UNVERIFIED),
    ],
)
def test_the_encoder_has_its_own_sign(sessions: list[int | None], word: Word) -> None:
    """An encode on the card is known by its session, not by memory or use."""
    samples = [reading for count in sessions for reading in seen(1, own_sessions=count)]
    assert of_stage("cuda", samples, encoder=True).word is word


def test_the_highest_figures_are_told() -> None:
    """A verdict brings the highest figures that were seen."""
    samples = [*seen(2, own=3 * GIB), *seen(2, gpu_percent=70)]
    verdict = of_stage("cuda", samples, weights=WEIGHTS)
    assert (verdict.own, verdict.gpu_percent) == (3 * GIB, 70)
    assert of_stage("cuda").own is None


def on_the_card(*, really: bool, short: bool, torch: bool, warm: bool, loud: bool) -> Verdict:
    """A stage of 1 GiB on a fake card: it really runs there or not; the samples see what they can.

    Short: two looks only. Torch: its counters are known. Warm: an earlier model lies there.
    Loud: a neighbour computes all the time.
    """
    card = FakeCard(12 * GIB, neighbour=GIB if loud else 0, context=300 * MIB)
    earlier = card.allocate(2 * GIB) if warm else None
    before, count = card.allocated, card.allocations
    card.reset_peak()
    samples = [card.reading(0.0)]
    block = card.allocate(GIB) if really else None
    for now in range(1 if short else 6):
        reading = card.reading(1.0 + now)
        busy = (30 if really else 0, max(80 if loud else 0, 30 if really else 0))
        samples.append(msgspec.structs.replace(reading, own_percent=busy[0], gpu_percent=busy[1]))
    counters = Counters(allocations=card.allocations - count, before=before, peak=card.peak)
    assert (earlier is None) != warm
    assert (block is None) != really
    return of_stage("cuda", samples, counters=counters if torch else None, weights=GIB)


def test_no_verdict_is_wrong() -> None:
    """Over all runs on and beside the card: never a false "verified", never a false "not used"."""
    known = 0
    for really, short, torch, warm, loud in product((True, False), repeat=5):
        verdict = on_the_card(really=really, short=short, torch=torch, warm=warm, loud=loud)
        assert verdict.word is not (Word.NOT_USED if really else Word.VERIFIED)
        known += verdict.word is not Word.UNVERIFIED
        if really:
            assert verdict.word is Word.VERIFIED
    assert known >= 22


readings = st.builds(
    Reading,
    own=st.none() | st.integers(0, 2 * GIB),
    own_estimated=st.booleans(),
    listed=st.none() | st.booleans(),
    others=st.none() | st.integers(0, 3),
    gpu_percent=st.none() | st.integers(0, 100),
    own_percent=st.none() | st.integers(0, 100),
    own_sessions=st.none() | st.integers(0, 3),
)


@given(
    st.lists(readings, max_size=8),
    st.none()
    | st.builds(
        Counters,
        allocations=st.integers(0, 3),
        before=st.integers(0, GIB),
        peak=st.integers(0, GIB),
    ),
    st.none() | st.integers(0, GIB),
    st.booleans(),
)
def test_silence_is_never_taken_for_a_no(
    samples: list[Reading], counters: Counters | None, weights: int | None, encoder: bool
) -> None:
    """No set of signals accuses a stage when one of them says yes, or when nothing was read."""
    verdict = of_stage("cuda", samples, counters=counters, weights=weights, encoder=encoder)
    blind = [
        msgspec.structs.replace(sample, listed=None, own_percent=None, gpu_percent=None)
        for sample in samples
    ]
    if not encoder:
        if counters is not None and counters.rose:
            assert verdict.word is not Word.NOT_USED
        if any(sample.own_percent for sample in samples[1:]):
            assert verdict.word is not Word.NOT_USED
        assert of_stage("cuda", blind, weights=weights).word is Word.UNVERIFIED
    assert verdict.word is Word.UNVERIFIED or not verdict.missing
    assert (verdict.word is Word.UNVERIFIED) == bool(verdict.missing)
