"""Keeps sound at its place in time: what a frame's timestamp means for the stream so far."""

from typing import NamedTuple

GAP = 0.1  # s; a timestamp this far from the sample count is a real gap, not rounding
MAX_OVERLAP = 1.0  # s; sound further back than this is a broken clock, not an overlap
MAX_GAP = 600.0  # s; a longer jump is a broken clock, not silence
MAX_SILENCE = 6 * 3600.0  # s; silence put into one file, all gaps together


class Step(NamedTuple):
    """What to do with one frame of sound."""

    silence: float = 0.0  # s to put in front of it
    keep: bool = True  # False: it overlaps what is there already
    broken: bool = False  # its timestamp made no sense and was not followed


class SoundClock:
    """Compares each frame's timestamp with the samples counted so far.

    Gaps become silence; short overlaps are dropped frame by frame; a greater jump either way is
    taken for a broken clock, and time is counted on from there.
    """

    def __init__(self, origin: float = 0.0) -> None:
        self._origin = origin  # the timestamp of time 0, in seconds
        self._now = 0.0  # s of sound so far, silence included
        self._silence = 0.0

    def step(self, stamp: float | None, samples: int, rate: int) -> Step:
        """The verdict on a frame that begins at `stamp` (s; None if it does not say)."""
        ahead = 0.0 if stamp is None else stamp - self._origin - self._now
        if -MAX_OVERLAP <= ahead < -GAP:
            return Step(keep=False)
        silence, broken = 0.0, False
        if ahead > GAP and ahead <= min(MAX_GAP, MAX_SILENCE - self._silence):
            silence = ahead
        elif abs(ahead) > GAP:
            broken = True
            self._origin += ahead
        self._silence += silence
        self._now += silence + samples / rate
        return Step(silence=silence, broken=broken)
