"""Levels of bands from streamed sound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.media.spectrum import HIGH, LOW, SILENT, BandStream, Floats, Motion, frame_count
from tests.fakes.sounds import bursts, tone

RATE = 48_000


def levels(sound: Floats, fps: int = 30, bands: int = 64, block: int = 24_000) -> Floats:
    stream = BandStream(rate=RATE, fps=fps, bands=bands)
    parts = [stream.feed(sound[at : at + block]) for at in range(0, len(sound), block)]
    return np.concatenate([*parts, stream.finish()])


@given(
    samples=st.integers(1, 30_000),
    block=st.integers(1, 9_000),
    fps=st.sampled_from([1, 24, 30, 60]),
)
@settings(max_examples=40, deadline=None)
def test_every_frame_comes_once(samples: int, block: int, fps: int) -> None:
    """However the sound is cut in blocks, the frames cover it exactly and are the same."""
    sound = np.random.default_rng(samples).uniform(-1, 1, (samples, 1)).astype(np.float32)
    cut = levels(sound, fps, 16, block)
    assert len(cut) == frame_count(samples, RATE, fps)
    assert np.allclose(cut, levels(sound, fps, 16, samples), atol=1e-3)


@pytest.mark.parametrize("hertz", [60.0, 250.0, 1_000.0, 4_000.0, 12_000.0])
def test_a_tone_lights_its_own_band(hertz: float) -> None:
    """The loudest band is the one that holds the tone."""
    edges = np.geomspace(LOW, HIGH, 65)
    row = levels(tone(1.0, RATE, 2, hertz))[15]
    assert abs(int(row.argmax()) - int(np.searchsorted(edges, hertz) - 1)) <= 1


def test_silence_is_the_floor() -> None:
    """Digital silence has the lowest level, not minus infinity."""
    assert np.allclose(levels(np.zeros((RATE, 1), np.float32)), SILENT)


def test_opposite_channels_do_not_cancel() -> None:
    """Stereo whose sides are each other's opposite is as loud as mono."""
    one = tone(1.0)
    both = np.concatenate((one, -one), axis=1)
    assert np.allclose(levels(one), levels(both), atol=0.1)


def test_a_frame_shows_the_sound_of_its_middle() -> None:
    """A burst at 1.00 s lights the frame around it and none before."""
    loud = levels(bursts(2.0, [1.0])).max(axis=1) > -60
    first = int(loud.argmax())
    assert first in (29, 30)  # frame 29's look reaches 5 ms beyond its end
    assert not loud[:first].any()


def test_bars_rise_at_once_and_fall_slowly() -> None:
    """A level's jump shows in the same frame; after it the bar sinks, its peak stays longer."""
    motion = Motion(fps=30, bands=4)
    quiet, loud = np.full(4, SILENT, np.float32), np.full(4, -10.0, np.float32)
    motion.step(quiet)
    motion.step(loud)
    assert (motion.heights > 0.8).all()
    before = motion.heights.copy()
    motion.step(quiet)
    assert (motion.heights < before).all()
    assert (motion.heights > 0.5 * before).all()
    assert (motion.peaks == before).all()
    for _frame in range(90):
        motion.step(quiet)
    assert (motion.peaks < 0.05).all()
    assert (motion.heights >= 0).all()
