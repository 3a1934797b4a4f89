"""Where somebody speaks: hysteresis, padding, cutting, and the stage on real speech."""

import itertools
import json
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import Transient
from pipeline.core.speech import Speech
from pipeline.stages import decode, vad
from tests.fakes.speech import SENTENCES, speech_order, work_on

LIKELY = st.lists(st.sampled_from((0.0, 0.2, 0.34, 0.36, 0.49, 0.5, 0.9)), max_size=400)


@given(LIKELY, st.integers(1, 512), st.floats(0.1, 0.9))
def test_spans_keep_the_rules(likely: list[float], last: int, threshold: float) -> None:
    """In order, apart, inside the recording, long enough to be speech, short enough to be heard."""
    samples = max(0, (len(likely) - 1) * 512 + last) if likely else 0
    spans = vad.find_speech(likely, threshold, samples)
    assert all(0.0 <= span.start < span.end <= samples / 16_000 for span in spans)
    assert all(one.end <= two.start for one, two in itertools.pairwise(spans))
    assert all(span.seconds > 0.25 for span in spans)


@given(st.integers(900, 4000), st.integers(0, 50))
def test_long_speech_is_cut_in_quiet_places(frames: int, seed: int) -> None:
    """The pieces join up, none is longer than allowed, and cuts are at local minima."""
    likely = np.random.default_rng(seed).uniform(0.5, 1.0, frames).tolist()
    pieces = vad.cut_long((0, frames * 512), likely, vad.LONGEST)
    assert pieces[0][0] == 0
    assert pieces[-1][1] == frames * 512
    assert all(one[1] == two[0] for one, two in itertools.pairwise(pieces))
    assert all(0 < end - start <= vad.LONGEST for start, end in pieces)


def test_a_dip_does_not_end_speech() -> None:
    """Between the two thresholds speech goes on; a long silence below the lower one ends it."""
    speaking = [0.9] * 20
    assert len(vad.loud_runs([*speaking, *[0.4] * 50, *speaking], 0.5, 90 * 512)) == 1
    assert len(vad.loud_runs([*speaking, *[0.1] * 5, *speaking], 0.5, 45 * 512)) == 1
    assert len(vad.loud_runs([*speaking, *[0.1] * 50, *speaking], 0.5, 90 * 512)) == 2


def test_a_click_is_no_speech() -> None:
    """What is shorter than a quarter of a second is left out."""
    assert vad.find_speech([0.0] * 30 + [0.9] * 5 + [0.0] * 30, 0.5, 65 * 512) == ()


def test_it_decides_as_silero_does() -> None:
    """For random probabilities the spans are those of Silero's own function."""
    rng = np.random.default_rng(3)
    cases = [
        np.clip(np.cumsum(rng.normal(0, 0.2, 300)) % 1.2, 0, 1).tolist() for _case in range(40)
    ]
    code = """
import json, sys
from silero_vad.utils_vad import get_speech_timestamps_from_probs as theirs
print(json.dumps([
    theirs(case, threshold=0.5, min_speech_duration_ms=250, min_silence_duration_ms=200,
           speech_pad_ms=100, audio_length_samples=len(case) * 512)
    for case in json.load(sys.stdin)
]))
"""
    found = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(cases).encode(),
        check=True,
        capture_output=True,
    )
    for case, theirs in zip(cases, json.loads(found.stdout), strict=True):
        ours = vad.find_speech(case, 0.5, len(case) * 512)
        assert [(round(span.start * 16_000), round(span.end * 16_000)) for span in ours] == [
            (span["start"], span["end"]) for span in theirs
        ]


def test_the_stage_finds_every_sentence(room: bytes) -> None:
    """Each sentence of the recording is one span within a third of a second."""
    work = work_on(speech_order(room))
    decode.run(work)
    result = vad.run(work)
    with open(result.artefacts[0], "rb") as file:
        spans = msgspec.json.decode(file.read(), type=Speech).spans
    assert len(spans) == result.facts["spans"] == len(SENTENCES)
    for span, (start, end) in zip(spans, SENTENCES, strict=True):
        assert abs(span.start - start) < 0.35
        assert abs(span.end - end) < 0.35
    assert 0.4 < result.facts["share"] < 0.7


def test_a_cut_sound_is_not_taken_for_silence(room: bytes) -> None:
    """If the scratch file lost its end, the stage says so instead of hearing nothing."""
    work = work_on(speech_order(room))
    decode.run(work)
    with open(work.artefact("audio.s16"), "r+b") as file:
        file.truncate(10_000)
    with pytest.raises(Transient, match="cut short"):
        vad.run(work)
