"""Sound at its place in time."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.media.clock import MAX_GAP, MAX_SILENCE, SoundClock, Step

FRAME = 1024
RATE = 48_000


def test_even_sound_is_left_alone() -> None:
    """Frames that follow each other, with the rounding of milliseconds, need nothing."""
    clock = SoundClock(5.0)
    for index in range(10_000):
        assert clock.step(5.0 + round(index * FRAME / RATE, 3), FRAME, RATE) == Step()


def test_a_gap_becomes_silence_once() -> None:
    """Lost sound becomes silence of its length, and what follows is in place again."""
    clock = SoundClock()
    clock.step(0.0, RATE, RATE)
    assert clock.step(3.0, RATE, RATE) == Step(silence=2.0)
    assert clock.step(4.0, RATE, RATE) == Step()


def test_an_overlap_is_dropped() -> None:
    """A frame that repeats sound which is there already is left out."""
    clock = SoundClock()
    clock.step(0.0, RATE, RATE)
    assert clock.step(0.5, RATE, RATE) == Step(keep=False)
    assert clock.step(1.0, RATE, RATE) == Step()


def test_a_broken_clock_is_not_followed() -> None:
    """A jump beyond sense changes nothing, and time counts on from there."""
    clock = SoundClock()
    clock.step(0.0, RATE, RATE)
    assert clock.step(1e9, RATE, RATE) == Step(broken=True)
    assert clock.step(1e9 + 1, RATE, RATE) == Step()
    assert clock.step(2.0, RATE, RATE) == Step(broken=True)


def test_frames_without_a_time_follow_each_other() -> None:
    """Where the file says no times, samples are counted."""
    clock = SoundClock()
    assert clock.step(None, FRAME, RATE) == Step()
    assert clock.step(FRAME / RATE, FRAME, RATE) == Step()


@given(st.lists(st.floats(-1e12, 1e12), max_size=60))
def test_no_file_can_ask_for_endless_silence(stamps: list[float]) -> None:
    """Whatever the timestamps say, silence is never negative and bounded, one and all."""
    clock = SoundClock()
    steps = [clock.step(stamp, FRAME, RATE) for stamp in stamps]
    assert all(0.0 <= step.silence <= MAX_GAP for step in steps)
    assert sum(step.silence for step in steps) <= MAX_SILENCE + 1e-6
