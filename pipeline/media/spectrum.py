"""How loud each band of the sound is at each frame of a video, from sound that comes in blocks.

Frame k shows the sound around (k + 0.5) / fps seconds. Only about one block is held at a time.
"""

import numpy as np
from numpy.typing import NDArray

WINDOW = 2048  # samples of one look at the sound (43 ms at 48 kHz)
LOW, HIGH = 40.0, 16_000.0  # Hz; the edges of the lowest and highest band
SILENT = -120.0  # dB; what total silence is shown as
QUIET = -50.0  # dB; sound that never gets louder is not blown up beyond this
RANGE = 48.0  # dB between an empty and a full bar
CEILING_FALL = 1.5  # dB a second; how fast the scale follows a piece that gets quieter
RISE, FALL = 0.012, 0.16  # s; time constants of a bar
PEAK_HOLD, PEAK_PULL = 0.35, 1.6  # s a peak stays, full heights a second² it then falls with

Floats = NDArray[np.float32]


def frame_count(samples: int, rate: int, fps: int) -> int:
    """How many frames it takes to show all the sound."""
    return -(-samples * fps // rate)


def band_weights(rate: int, bands: int) -> Floats:
    """Which FFT bins make up each band: shape (bins, bands), log-spaced edges.

    Each band takes the mean of the power across it, interpolated between bins where it is narrower
    than one, and weighted with its frequency, because music falls by about 3 dB an octave.
    """
    edges = np.geomspace(LOW, min(HIGH, rate * 0.45), bands + 1) * WINDOW / rate  # in bins
    weights = np.zeros((WINDOW // 2 + 1, bands), np.float32)
    for band in range(bands):
        low, high = edges[band], edges[band + 1]
        points = np.linspace(low, high, max(8, round(4 * (high - low))))
        below = points.astype(int)
        share = points - below
        np.add.at(weights[:, band], below, (1 - share) / len(points))
        np.add.at(weights[:, band], below + 1, share / len(points))
        weights[:, band] *= (low + high) / 2 * rate / WINDOW / 1000.0
    return weights


class BandStream:
    """Feed blocks of shape (samples, channels); take levels in dB of shape (frames, bands)."""

    def __init__(self, *, rate: int, fps: int, bands: int) -> None:
        self.samples = 0  # fed so far
        self.frames = 0  # given out so far
        self._rate = rate
        self._fps = fps
        self._bands = bands
        self._weights = band_weights(rate, bands)
        window = np.hanning(WINDOW + 1)[:-1]
        # A full-scale tone in the middle of a bin is 0 dB before the weights.
        self._window = (window * (2.0 / window.sum())).astype(np.float32)[:, None]
        self._held: Floats | None = None  # from sample `_first` on
        self._first = -WINDOW // 2

    def feed(self, block: Floats) -> Floats:
        """Take more sound; the levels of every frame that it completes."""
        if self._held is None:
            self._held = np.zeros((WINDOW // 2, block.shape[1]), np.float32)
        self.samples += len(block)
        self._held = np.concatenate((self._held, block))
        end = self._first + len(self._held)
        count = 0
        while self._start(self.frames + count) + WINDOW <= end:
            count += 1
        return self._take(count)

    def finish(self) -> Floats:
        """The levels of the frames that are left; what lies behind the end is silence."""
        left = frame_count(self.samples, self._rate, self._fps) - self.frames
        if self._held is None or left <= 0:
            return np.zeros((0, self._bands), np.float32)
        need = self._start(self.frames + left - 1) + WINDOW - self._first - len(self._held)
        rest = np.zeros((max(0, need), self._held.shape[1]), np.float32)
        self._held = np.concatenate((self._held, rest))
        return self._take(left)

    def _start(self, frame: int) -> int:
        """The first sample that a frame looks at."""
        return (2 * frame + 1) * self._rate // (2 * self._fps) - WINDOW // 2

    def _take(self, count: int) -> Floats:
        assert self._held is not None
        starts = [self._start(self.frames + index) - self._first for index in range(count)]
        self.frames += count
        levels = np.empty((count, self._bands), np.float32)
        for row, start in enumerate(starts):
            look = np.fft.rfft(self._held[start : start + WINDOW] * self._window, axis=0)
            power = (look.real**2 + look.imag**2).mean(axis=1, dtype=np.float32)
            levels[row] = power @ self._weights
        done = min(len(self._held), max(0, self._start(self.frames) - self._first))
        self._held, self._first = self._held[done:].copy(), self._first + done
        decibels: Floats = 10.0 * np.log10(np.maximum(levels, 10.0 ** (SILENT / 10.0)))
        return decibels


class Motion:
    """Turns levels into heights 0 to 1: quick to rise, slow to fall, as loud as of late is full."""

    def __init__(self, *, fps: int, bands: int) -> None:
        self.heights = np.zeros(bands, np.float32)
        self.peaks = np.zeros(bands, np.float32)
        self._age = np.zeros(bands, np.float32)  # s since a peak was set
        self._step = 1.0 / fps
        self._rise = 1.0 - np.exp(-self._step / RISE)
        self._fall = 1.0 - np.exp(-self._step / FALL)
        self._ceiling = QUIET

    def step(self, levels: Floats) -> None:
        """One frame on."""
        self._ceiling = max(
            self._ceiling - CEILING_FALL * self._step, float(levels.max()) + 2.0, QUIET
        )
        aim = np.clip(1.0 + (levels - self._ceiling) / RANGE, 0.0, 1.0)
        pull = np.where(aim > self.heights, self._rise, self._fall)
        self.heights += (aim - self.heights) * pull
        self._age += self._step
        speed = PEAK_PULL * np.maximum(0.0, self._age - PEAK_HOLD)
        self.peaks -= speed * self._step
        risen = self.heights >= self.peaks
        self.peaks[risen] = self.heights[risen]
        self._age[risen] = 0.0
