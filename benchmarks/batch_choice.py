"""Batch choice against a drifting neighbour: four policies on the same 10 000 simulated files.

    python -m benchmarks.batch_choice [FILES] [SEEDS]

A 12 GiB card, a stage whose true peak is weights + batch x size + duration, 3 % noise, a jump of up
to a quarter in 0.2 % of the runs, and another program that takes 0 to 4 GiB and drifts. The card,
the noise and the neighbour are invented; the model that chooses is the one that the worker uses.
"""

import math
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.gpu.peaks import PeakModel
from pipeline.gpu.values import GIB, Features, Observation

CARD = 12 * GIB
NEIGHBOUR_MOST = 4 * GIB
DRIFT = GIB // 16  # of the neighbour, from file to file
NOISE = 0.03
JUMPS = 0.002
JUMP_MOST = 0.25
SHAPES = 400  # different media; the same shape comes again
MOST = 32  # the largest batch that the stage takes
WARM_UP = 500
GOAL_SHARE = 0.85


@dataclass(frozen=True)
class File:
    """One simulated file: its features, how its peak strays, what the card could give."""

    features: Features
    stray: float  # factor on the true peak of this run
    capacity: int  # bytes

    def peak(self, batch: int) -> int:
        """The true peak of this run, in bytes."""
        minutes = self.features.seconds / 60.0
        size = self.features.pixels / 1e6
        smooth = 1.6 * GIB + batch * size * 0.28 * GIB + minutes * 0.035 * GIB
        return round(smooth * self.stray)

    def best(self) -> int:
        """The largest batch that fits, known only afterwards; 0 if none does."""
        return next((b for b in range(MOST, 0, -1) if self.peak(b) <= self.capacity), 0)


class Policy(Protocol):
    """Chooses a batch, hears how it went."""

    name: str

    def choose(self, file: File, /) -> int: ...
    def again(self, file: File, batch: int, /) -> int: ...
    def learn(self, run: Observation, /) -> None: ...


class FixedTable:
    """A batch by duration, as a hand-made table has it; what runs out goes to the CPU."""

    name = "fixed table"

    def choose(self, file: File) -> int:
        minutes = file.features.seconds / 60.0
        return 4 if minutes > 60 else 8 if minutes > 20 else 12

    def again(self, _file: File, _batch: int) -> int:
        return 0

    def learn(self, _run: Observation) -> None:
        pass


class StickyTenth:
    """Nine tenths after each OOM, for good."""

    name = "x0.9 sticky"

    def __init__(self) -> None:
        self._batch = MOST

    def choose(self, _file: File) -> int:
        return self._batch

    def again(self, _file: File, batch: int) -> int:
        if batch == 1:
            return 0
        self._batch = max(1, int(batch * 0.9))
        return self._batch

    def learn(self, _run: Observation) -> None:
        pass


class Halving:
    """The largest batch for each file, halved until it fits."""

    name = "halving"

    def choose(self, _file: File) -> int:
        return MOST

    def again(self, _file: File, batch: int) -> int:
        return batch // 2

    def learn(self, _run: Observation) -> None:
        pass


class Learned:
    """The peak model; after an OOM a quarter of the batch, or what the model allows."""

    name = "penstock"

    def __init__(self) -> None:
        self.model = PeakModel()
        self.seconds = 0.0

    def choose(self, file: File) -> int:
        start = time.perf_counter()
        batch = self.model.largest_batch(file.capacity, file.features, MOST)
        self.seconds += time.perf_counter() - start
        return batch

    def again(self, file: File, batch: int) -> int:
        return min(max(1, batch // 4), self.choose(file))

    def learn(self, run: Observation) -> None:
        self.model.add(run)


@dataclass
class Score:
    """What one policy did with all files of a seed."""

    ooms: int = 0
    late_ooms: int = 0  # after the warm-up
    repeats: int = 0  # OOMs of a shape that had run out at that batch or a smaller one
    to_cpu: int = 0
    shares: list[float] = field(default_factory=list)  # batch / best, after the warm-up


def files(number: int, seed: int) -> Iterator[File]:
    draw = random.Random(seed)
    shapes = [
        Features(
            seconds=round(60 * math.exp(draw.gauss(2.3, 0.9)), 2),
            pixels=draw.choice((1280 * 720, 1920 * 1080, 854 * 480)),
        )
        for _number in range(SHAPES)
    ]
    neighbour = 0.25 * NEIGHBOUR_MOST
    for _number in range(number):
        neighbour = min(max(neighbour + draw.gauss(0.0, DRIFT), 0.0), NEIGHBOUR_MOST)
        stray = max(0.8, draw.gauss(1.0, NOISE))
        if draw.random() < JUMPS:
            stray *= 1.0 + draw.uniform(0.05, JUMP_MOST)
        yield File(draw.choice(shapes), stray, round(CARD - neighbour))


def run(policy: Policy, number: int, seed: int) -> Score:
    score = Score()
    ran_out: dict[Features, int] = {}
    for count, file in enumerate(files(number, seed)):
        batch = policy.choose(file)
        while batch >= 1 and file.peak(batch) > file.capacity:
            score.ooms += 1
            score.late_ooms += count >= WARM_UP
            score.repeats += batch >= ran_out.get(file.features, MOST + 1)
            ran_out[file.features] = min(batch, ran_out.get(file.features, batch))
            policy.learn(_observed(file, batch, file.capacity, True))
            batch = policy.again(file, batch)
        best = file.best()
        score.to_cpu += batch < 1 and best > 0
        if batch >= 1:
            policy.learn(_observed(file, batch, file.peak(batch), False))
        if count >= WARM_UP and best:
            score.shares.append(batch / best)
    return score


def _observed(file: File, batch: int, peak: int, oom: bool) -> Observation:
    return Observation(batch=batch, features=file.features, peak=peak, seconds=1.0, oom=oom)


def compare(number: int, seeds: range) -> dict[str, Counter[str]]:
    """Sums over the seeds of each policy's figures; `share` is a mean times the seeds."""
    table: dict[str, Counter[str]] = {}
    for kind in (FixedTable, StickyTenth, Halving, Learned):
        sums = table.setdefault(kind.name, Counter())
        for seed in seeds:
            policy: Policy = kind()
            score = run(policy, number, seed)
            sums.update(
                ooms=score.ooms,
                late=score.late_ooms,
                repeats=score.repeats,
                cpu=score.to_cpu,
            )
            sums["share"] += sum(score.shares) / len(score.shares)  # type: ignore[assignment]
            if isinstance(policy, Learned):
                sums["us"] += 1e6 * policy.seconds / number  # type: ignore[assignment]
    return table


def report(table: dict[str, Counter[str]], number: int, seeds: int) -> str:
    head = (
        f"{'policy':14}{'OOMs':>9}{f'after {WARM_UP}':>11}{'repeats':>9}{'to CPU':>9}{'share':>8}"
    )
    lines = [f"{number} files, mean of {seeds} seeds; share: batch / largest that fits", head]
    for name, sums in table.items():
        figures = [sums[what] / seeds for what in ("ooms", "late", "repeats", "cpu", "share")]
        lines.append(
            f"{name:14}{figures[0]:9.1f}{figures[1]:11.1f}{figures[2]:9.1f}{figures[3]:9.1f}"
            f"{figures[4]:8.3f}"
        )
    ours = table[Learned.name]
    lines.append(f"a choice of ours takes {ours['us'] / seeds:.0f} us on average")
    met = ours["share"] / seeds >= GOAL_SHARE and not ours["repeats"]
    lines.append(f"goal: share >= {GOAL_SHARE}, no repeats: {'met' if met else 'MISSED'}")
    return "\n".join(lines)


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    print(report(compare(number, range(seeds)), number, seeds))


if __name__ == "__main__":
    main()
