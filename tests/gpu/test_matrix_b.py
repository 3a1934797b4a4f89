"""One real card, in this process: running out, coming back, small cards, cleanups, verdicts.

The card is filled for moments, so nobody else should be working on it. The figures are printed at
the end, for benchmarks/RESULTS.md.
"""

import os
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.core.faults import Kind
from pipeline.core.stage import Load
from pipeline.gpu.ladder import Step, climb, steps
from pipeline.gpu.manager import Memory
from pipeline.gpu.unwind import Caught, run_and_release
from pipeline.gpu.usage import StageWatch, torch_figures
from pipeline.gpu.verdict import Word
from tests.gpu.ballast import EXACT, Ballast
from tests.gpu.real_card import (
    GB,
    GIB,
    MIB,
    Figures,
    cuda_or_skip,
    free_now,
    machine,
    managed,
    seconds_until_free,
    some_order,
    the_card,
    tidy,
    within,
)

# Warnings of libraries on a machine that is not ours are no failures here.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

FIGURES = Figures()
RETRY_S = 2.0  # from running out to a smaller try that has worked
NEAR = 16 * MIB
LITTLE = 64 * MIB  # that libraries may keep
LADDER = steps(frugal=False, share=0.25)


@pytest.fixture
def torch() -> Iterator[Any]:
    found = cuda_or_skip()
    tidy(found)
    yield found
    tidy(found)


def block(torch: Any, size: int) -> Any:
    return torch.empty(size, dtype=torch.uint8, device="cuda")


def work(torch: Any, size: int = 64 * MIB) -> None:
    """Something that the card really has to compute."""
    assert int(block(torch, size).fill_(1).sum(dtype=torch.int64).item()) == size


def grains(size: float) -> int:
    return int(size) // (2 * MIB) * (2 * MIB)


def no_beat() -> None:
    """Nobody waits for a sign of life here."""


def alive(refs: "list[weakref.ref[Any]]") -> int:
    return sum(ref() is not None for ref in refs)


@pytest.mark.parametrize("shape", ["plain", "chained"])
@within(15, cases=2)
def test_a_real_oom_leaves_nothing_behind(torch: Any, shape: str) -> None:
    """An OOM asks for recovery, no tensor outlives it, a smaller try works within 2 seconds."""
    work(torch)  # kernels are loaded once, before anything is measured
    room = free_now(the_card())
    refs: list[weakref.ref[Any]] = []

    def too_much() -> None:
        held = [block(torch, grains(room / 4)) for _number in range(2)]
        refs.extend(weakref.ref(one) for one in held)
        held.append(block(torch, grains(room)))

    def chained() -> None:
        try:
            too_much()
        except torch.OutOfMemoryError as error:
            raise RuntimeError("the stage failed") from error

    met = run_and_release(chained if shape == "chained" else too_much)
    begun = time.monotonic()
    left = alive(refs)  # at the first clean-up, before any collection of garbage
    work(torch, GIB)
    took = time.monotonic() - begun
    assert isinstance(met, Caught)
    assert met.finding.kind is Kind.RECOVER
    assert len(refs) == 2
    assert left == 0
    assert took <= RETRY_S
    FIGURES.add(f"OOM, {shape}: tensors alive at clean-up / retry", f"{left} / {took:.3f} s")


@within(10)
def test_a_limit_of_torch_is_an_oom_too(torch: Any) -> None:
    """What goes beyond per_process_memory_fraction asks for recovery, and less than that works."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(0.1)
    met = run_and_release(lambda: block(torch, grains(total * 0.2)))
    assert isinstance(met, Caught)
    assert met.finding.kind is Kind.RECOVER
    work(torch)
    FIGURES.add("OOM by per_process_memory_fraction", met.message[:200])


@within(20)
def test_the_ladder_goes_on_with_a_quarter(torch: Any) -> None:
    """A batch of 16 that does not fit is done as 4, in the same process, in seconds."""
    work(torch)
    each = grains(free_now(the_card()) / 10)
    refs: list[weakref.ref[Any]] = []
    seen: list[tuple[int, int, float]] = []  # batch, tensors still alive, when it began
    ended: list[float] = []

    def run(step: Step, _watch: StageWatch) -> int:
        batch = max(1, int(16 * step.share))
        seen.append((batch, alive(refs), time.monotonic()))
        held = []
        for _item in range(batch):
            held.append(block(torch, each))
            refs.append(weakref.ref(held[-1]))
        work(torch)
        ended.append(time.monotonic())
        return batch

    with managed() as (memory, said):
        assert climb(memory, "trial", LADDER, run) == 4
    events = [note.event for note in said]
    assert [batch for batch, _left, _at in seen] == [16, 4]
    assert [left for _batch, left, _at in seen] == [0, 0]
    assert events.count("recovery") == 1
    took = ended[0] - seen[0][2]  # both tries and the emergency cleanup between them
    assert took <= 2 * RETRY_S
    FIGURES.add("ladder 16 → 4, from the first try to the end of the second", f"{took:.3f} s")


class Trial:
    """A planned stage that holds `base` and, for every item of its batch, `each` bytes."""

    def __init__(self, torch: Any, memory: Memory, base: int, each: int, wanted: int) -> None:
        self.torch, self.memory = torch, memory
        self.base, self.each, self.wanted = base, each, wanted
        self.tried: list[int] = []
        self.load = Load(model=f"trial {each}", device="cuda", seconds=30.0)

    def files(self, count: int) -> list[int]:
        """The batches that were done, one for each file."""
        done = []
        for _number in range(count):
            done.append(climb(self.memory, "trial", LADDER, self._run))
            self.memory.after_file()
        return done

    def _run(self, step: Step, watch: StageWatch) -> int:
        batch = self.memory.choose_batch(watch, step.share, no_beat, self.wanted, self.load)
        self.tried.append(batch)
        held = [block(self.torch, self.base)]
        held += [block(self.torch, self.each) for _item in range(batch)]
        held[-1][: 4 * MIB].fill_(1)
        self.torch.cuda.synchronize()
        return batch


@pytest.mark.parametrize("size", [6, 12, 24])
@within(35, cases=3)
def test_a_small_card_is_used_well(torch: Any, size: int) -> None:
    """With 6, 12 or 24 GB: an OOM is never repeated, and the batch is 0.85 of the best at least."""
    work(torch)
    tidy(torch)
    with managed() as (before, _said):
        ours = before.last_reading.own or 0  # the context is part of what a small card would hold
    if free_now(the_card()) < size * GB:
        pytest.skip(f"less than {size} GB of this card are free")
    wanted_free = size * GB - ours
    with Ballast(free=wanted_free) as ballast, managed(budget_gb=size) as (memory, said):
        assert 0 <= ballast.ready.free - wanted_free <= EXACT
        reading = memory.last_reading
        room = (memory.capacity() or 0) - (reading.own or 0)

        large = Trial(torch, memory, 64 * MIB, grains(room * 0.6), wanted=8)
        assert large.files(10) == [1] * 10  # two do not fit
        assert large.tried.count(2) == 1
        ooms = [note.event for note in said].count("recovery")
        assert ooms == 1
        tidy(torch)

        small = Trial(torch, memory, grains(room / 8), grains(room / 48), wanted=64)
        batch = small.files(45)[-1]
        ooms = [note.event for note in said].count("recovery") - ooms
        best = (room - small.base) // small.each
        wall = ((reading.free or 0) - small.base) // small.each  # without any reserve
        assert ooms <= 1
        assert 0.85 * best <= batch <= wall
        FIGURES.add(
            f"{size} GB: batch / best / wall, OOMs while learning",
            f"{batch} / {best} ({batch / best:.2f}) / {wall} ({batch / wall:.2f}), {ooms}",
        )


@within(10)
def test_our_share_is_seen(torch: Any) -> None:
    """While we hold 2 GiB our share of the card says so, and what the driver hides is named."""
    held = block(torch, 2 * GIB)
    with managed() as (memory, _said):
        reading = memory.last_reading
        gaps = memory.gauge.gaps()
    assert reading.own is not None
    assert reading.own >= held.nbytes
    assert (reading.allocated or 0) >= held.nbytes
    FIGURES.add(
        "our share with 2 GiB held",
        f"{reading.own / GIB:.2f} GiB{' (estimated)' if reading.own_estimated else ''}, in the"
        f" driver's list: {reading.listed}, others there: {reading.others}, gaps: {gaps or 'none'}",
    )


@pytest.mark.parametrize("place", ["cuda", "cpu"])
@within(12, cases=2)
def test_the_verdict_is_never_wrong(torch: Any, place: str) -> None:
    """A stage on the card is verified where the driver lists us; one on the CPU never is."""

    def run(_step: Step, watch: StageWatch) -> dict[str, Any]:
        matrix = torch.ones(2048, 2048, device=place)
        until = time.monotonic() + 2.0
        looked = 0.0
        while time.monotonic() < until:
            (matrix @ matrix).sum().item()
            if time.monotonic() - looked > 0.3:
                looked = time.monotonic()
                memory.sample()
        found = memory.verdict(watch, some_order(), ran_on="")
        FIGURES.add(f"verdict, stage on {place}", str(found["gpu_use"]))
        return found | {"told": memory.verdict(watch, some_order(), ran_on=place)["gpu_use"]}

    with managed() as (memory, said):
        words = climb(memory, "trial", LADDER, run)
    if place == "cuda":
        hidden = memory.last_reading.listed is False  # a driver that shows nobody anything
        word = Word.UNVERIFIED if hidden else Word.VERIFIED
        assert (words["gpu_use"]["word"], words["told"]["word"]) == (word, word)
    else:
        assert words["gpu_use"]["word"] in (Word.NOT_USED, Word.UNVERIFIED)
        assert words["told"]["word"] == Word.NOT_USED
        assert [note for note in said if note.event == "verdict"][-1].warning


@within(10)
def test_a_cleanup_gives_back_what_torch_keeps(torch: Any) -> None:
    """A cleanup returns 4 GiB that torch kept to the card, and a model that nobody has leased."""
    card = the_card()
    with managed() as (memory, said):
        before = free_now(card)
        block(torch, 4 * GIB)
        assert (torch_figures()[1] or 0) >= 4 * GIB
        memory.clean("standard")
        back = seconds_until_free(card, before - NEAR, 5.0)
        assert back is not None
        assert (torch_figures()[1] or 0) < LITTLE

        with memory.shelf.lease("model", lambda: torch.nn.Linear(8192, 8192, device="cuda")):
            memory.clean("aggressive")
            assert (torch_figures()[0] or 0) > 200 * MIB  # in use: it stays
        memory.clean("aggressive")
        assert (torch_figures()[1] or 0) < LITTLE
        assert not memory.shelf.survivors()
    freed = [note.facts["freed"] for note in said if note.event == "cleanup"]
    assert freed[0] is None or freed[0] >= 4 * GIB - NEAR
    FIGURES.add("standard cleanup of 4 GiB: seconds until free, freed as told", f"{back:.3f} s, "
                f"{(freed[0] or 0) / GIB:.2f} GiB")  # fmt: skip


@within(10)
def test_real_fragments_ask_for_a_fresh_worker(torch: Any) -> None:
    """Memory that one small tensor keeps from going back makes the worker ask to be replaced."""
    if any("expandable" in value for name, value in os.environ.items() if "ALLOC_CONF" in name):
        pytest.skip("expandable segments do not fragment like this")
    with managed(cleanup_every=1) as (memory, _said):
        assert "fragmented" not in memory.after_file()
        size = grains(0.3 * (memory.capacity() or 0))
        block(torch, size)  # kept by torch, and then cut by the next one
        pin = block(torch, 2 * MIB)
        reason = memory.after_file()
        assert reason.startswith("fragmented")
        FIGURES.add("one 2 MiB tensor in a large segment", reason)
        del pin
        assert "fragmented" not in memory.after_file()


def test_the_figures_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """What was measured is shown, even when every test has passed."""
    torch = cuda_or_skip()
    with capsys.disabled():
        print(FIGURES.table(f"One process: {machine(torch)}"))
