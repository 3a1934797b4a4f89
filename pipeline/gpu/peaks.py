"""How much memory a run will take at its highest, learned from the runs before it.

The model is a sum of terms (constant, batch, batch·size, seconds, batch·seconds, frames, and the
squares of seconds and batch) with factors that are never negative, fitted to relative error; the
weights on the card are part of the constant. The bound is the fit times 1 + q, where q is the
99.9 % quantile of the residuals and half a run's worth of doubt. A run that ran out of memory says
"at least this much": it lifts the fit where that is too low, and whatever is as large or larger in
every way is bound by it. The same shape is never admitted again at that batch or a larger one.

Nothing here locks, logs or reads a clock.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.core.learned import RUNS_KEPT, BatchStats
from pipeline.gpu.values import Features, Observation

Array = npt.NDArray[np.float64]

COLD_BATCH = 2  # at most, while there is no fit
GROWTH = 2  # a batch may be this many times the largest that has succeeded
LONGER = 4  # a success speaks for media up to this many times as long
QUANTILE = 0.999
DOUBT = 0.5  # runs
CENSORED = 1.05  # what ran out needed at least this many times what it could have had
REFITS = frozenset({3, 5, 8, 12, 20, 40})
REFIT_EVERY = 100
GAIN = 1e-9  # per run; a column must be worth this much
LEAST_SHARE = 0.01  # of the smallest peak
ROUNDS = 5  # of deciding which OOMs lift the fit
MEGA = 1e6


class PeakModel:
    """The learned peak of one environment (Key). Sizes in bytes; not thread-safe."""

    def __init__(self, past: Iterable[Observation] = ()) -> None:
        self._runs: deque[Observation] = deque(maxlen=RUNS_KEPT)
        self._blocked: dict[Features, int] = {}  # the smallest batch that ran out
        self._floors: list[Observation] = []  # OOMs that no later success has refuted
        self._proven: list[Observation] = []  # successes that no other success covers
        self._factors: tuple[float, ...] | None = None
        self._margin = 0.0
        self._seen = 0
        for run in past:
            self._take(run)
        self._refit()

    def add(self, run: Observation) -> None:
        """Learn from one run. The `peak` of an OOM is own + free as read when it failed."""
        known, ooms = self.bound(run.batch, run.features), len(self._floors)
        if not self._take(run):
            return
        due = self._seen in REFITS or self._seen % REFIT_EVERY == 0
        if due or len(self._floors) != ooms or (known is not None and run.peak > known):
            self._refit()

    def bound(self, batch: int, features: Features) -> int | None:
        """Bytes that nearly every such run stays below; None while too little is known."""
        if self._factors is None or not math.isfinite(features.seconds):
            return None
        fit = sum(map(float.__mul__, self._factors, _columns(batch, features)))
        return max(math.ceil(fit * (1.0 + self._margin)), self._floor(batch, features))

    def largest_batch(self, capacity_left: int, features: Features, most: int) -> int:
        """The largest batch that fits into that many bytes, at most `most`; 0 if not even one."""
        limit = min(most, self._grown(features), self._blocked.get(features, most + 1) - 1)
        if self.bound(1, features) is None:
            limit = min(limit, COLD_BATCH)
        # Every term and every floor grows with the batch, so the first that is too large ends it.
        batches = range(1, limit + 1)
        return bisect_right(batches, capacity_left, key=lambda batch: self._least(batch, features))

    def is_blocked(self, batch: int, features: Features) -> bool:
        """True if this shape has run out of memory at this batch or a smaller one."""
        return batch >= self._blocked.get(features, batch + 1)

    @property
    def runs(self) -> int:
        """How many runs the fit rests on; the newest 2 000 at most."""
        return len(self._runs)

    @property
    def margin(self) -> float:
        """What the bound adds to the fit, as a share of it."""
        return self._margin

    def summary(self) -> list[BatchStats]:
        """How each batch size did, smallest first."""
        return [
            _stats(batch, [run for run in self._runs if run.batch == batch])
            for batch in sorted({run.batch for run in self._runs})
        ]

    def _least(self, batch: int, features: Features) -> int:
        known = self.bound(batch, features)
        return self._floor(batch, features) if known is None else known

    def _floor(self, batch: int, features: Features) -> int:
        """What the OOMs of smaller runs say about this one."""
        return max(
            (
                math.ceil(CENSORED * run.peak)
                for run in self._floors
                if run.batch <= batch and _within(run.features, features)
            ),
            default=0,
        )

    def _grown(self, features: Features) -> int:
        """The largest batch that past successes allow for such media."""
        size = _size(features)
        proven = max(
            (
                run.batch * min(1.0, _size(run.features) / size)
                for run in self._proven
                if run.features.seconds * LONGER >= features.seconds
            ),
            default=0.0,
        )
        return max(COLD_BATCH if self._proven else 1, int(proven * GROWTH))

    def _take(self, run: Observation) -> bool:
        if not _sensible(run):
            return False
        self._seen += 1
        if len(self._runs) == RUNS_KEPT and self._runs[0].oom:
            self._floors = [floor for floor in self._floors if floor is not self._runs[0]]
        self._runs.append(run)
        if run.oom:
            before = self._blocked.get(run.features, run.batch)
            self._blocked[run.features] = min(before, run.batch)
            self._floors.append(run)
            return True
        # The same or more went well with less: then that OOM was a neighbour or a freak.
        self._floors = [floor for floor in self._floors if not _refutes(run, floor)]
        if not any(_covers(other, run) for other in self._proven):
            self._proven = [other for other in self._proven if not _covers(run, other)]
            self._proven.append(run)
        return True

    def _refit(self) -> None:
        fine = [run for run in self._runs if not run.oom]
        if len(fine) < min(REFITS):
            return
        ooms = self._floors
        rows, peaks = _table(fine)
        high_rows, high_peaks = _table(ooms)
        high_peaks *= CENSORED
        lifting = np.zeros(len(ooms), dtype=bool)
        for _round in range(ROUNDS):
            known = np.concatenate([rows, high_rows[lifting]])
            wanted = np.concatenate([peaks, high_peaks[lifting]])
            factors = fit_relative(known, wanted)
            factors[0] += LEAST_SHARE * wanted.min()  # no run takes nothing at all
            too_low = high_rows @ factors < high_peaks
            if bool((too_low == lifting).all()):
                break
            lifting = too_low
        fit = known @ factors
        spread = float(np.quantile((wanted - fit) / fit, QUANTILE))
        self._factors = tuple(map(float, factors))
        self._margin = max(0.0, spread) + DOUBT / len(wanted)


def fit_relative(rows: Array, wanted: Array) -> Array:
    """Factors, none negative, with the least squared relative error of rows @ factors.

    `rows` is (runs, columns), `wanted` (runs,) and above zero. Lawson and Hanson's active set.
    """
    scaled = rows / wanted[:, None]
    norms = np.sqrt((scaled**2).sum(axis=0))
    norms[norms == 0.0] = 1.0
    scaled /= norms
    gram, target = scaled.T @ scaled, scaled.sum(axis=0)
    factors = np.zeros(len(target))
    used = np.zeros(len(target), dtype=bool)
    for _step in range(3 * len(target)):
        gain = np.where(used, -np.inf, target - gram @ factors)
        if gain.max() <= GAIN * len(wanted):
            break
        used[gain.argmax()] = True
        factors = _inside(gram, target, factors, used)
    result: Array = factors / norms
    return result


def _inside(gram: Array, target: Array, factors: Array, used: npt.NDArray[np.bool_]) -> Array:
    """The best factors of the used columns; columns that would go below zero leave `used`."""
    while True:
        best = np.zeros(len(target))
        part = np.linalg.lstsq(gram[np.ix_(used, used)], target[used], rcond=1e-10)[0]
        best[used] = part
        below = used & (best <= 0.0)
        if not below.any():
            return best
        step = (factors[below] / (factors[below] - best[below])).min()
        factors = factors + step * (best - factors)
        used &= factors > 1e-12


def _columns(batch: int, features: Features) -> tuple[float, ...]:
    minutes = features.seconds / 60.0
    return (
        1.0,
        float(batch),
        batch * _size(features),
        minutes,
        batch * minutes,
        features.frames / 1000.0,
        minutes**2,
        float(batch**2),
    )


def _size(features: Features) -> float:
    return features.pixels / MEGA if features.pixels > 0 else 1.0


def _table(runs: Sequence[Observation]) -> tuple[Array, Array]:
    rows = [_columns(run.batch, run.features) for run in runs]
    peaks = [float(run.peak) for run in runs]
    table = np.array(rows, dtype=np.float64).reshape(len(rows), len(_columns(1, Features())))
    return table, np.array(peaks, dtype=np.float64)


def _sensible(run: Observation) -> bool:
    """False for figures that nothing can be learned from (a probe that failed, a broken header)."""
    features = run.features
    return (
        run.batch >= 1
        and run.peak >= 1
        and math.isfinite(features.seconds)
        and min(features.seconds, features.pixels, features.frames) >= 0
    )


def _within(small: Features, large: Features) -> bool:
    return (
        small.seconds <= large.seconds
        and small.pixels <= large.pixels
        and small.frames <= large.frames
    )


def _refutes(success: Observation, oom: Observation) -> bool:
    return (
        success.batch >= oom.batch
        and success.peak < CENSORED * oom.peak
        and _within(oom.features, success.features)
    )


def _covers(one: Observation, other: Observation) -> bool:
    """True if what `one` proves includes what `other` proves."""
    return (
        one.batch >= other.batch
        and one.features.seconds >= other.features.seconds
        and _size(one.features) >= _size(other.features)
    )


def _stats(batch: int, runs: Sequence[Observation]) -> BatchStats:
    fine = [run for run in runs if not run.oom]
    return BatchStats(
        batch=batch,
        runs=len(runs),
        ooms=len(runs) - len(fine),
        peak=sum(run.peak for run in fine) / len(fine) if fine else None,
        seconds=sum(run.seconds for run in fine) / len(fine) if fine else None,
    )
