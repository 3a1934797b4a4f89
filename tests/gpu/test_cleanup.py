"""Cleanups: their steps and order, what they free, and that nothing that fails stops them."""

import logging
import subprocess
import sys
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.gpu.cleanup import Cleaned, Tools, aggressive, emergency, standard, trim_heap
from pipeline.gpu.shelf import Shelf

GB = 1_000_000_000


class FakeTorch:
    """As much of the torch module as a cleanup touches; writes down what is called."""

    def __init__(self, *, live: bool = True, cached: int = 0) -> None:
        self.calls: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.reserved = cached
        self.returns: list[int] = []  # what each emptying of the cache frees; then all
        self._live = live

    def __getattr__(self, name: str) -> Any:
        if name == "cuda":
            return SimpleNamespace(
                is_initialized=lambda: self._live,
                synchronize=self._call("synchronize"),
                empty_cache=self._call("empty_cache", self._empty),
                reset_peak_memory_stats=self._call("reset_peak_memory_stats"),
                memory_reserved=lambda: self.reserved,
            )
        if name == "backends":
            cache = SimpleNamespace(clear=self._call("cufft"))
            return SimpleNamespace(cuda=SimpleNamespace(cufft_plan_cache=cache))
        if name == "_C":
            return SimpleNamespace(_cuda_clearCublasWorkspaces=self._call("cublas"))
        raise AttributeError(name)

    def _call(self, name: str, work: Callable[[], None] = lambda: None) -> Callable[[], None]:
        def called() -> None:
            self.calls.append(name)
            if name in self.fails:
                raise self.fails[name]
            work()

        return called

    def _empty(self) -> None:
        self.reserved -= self.returns.pop(0) if self.returns else 0

    def tools(self, **more: Any) -> Tools:
        return Tools(torch=lambda: self, **more)


def test_standard() -> None:
    """References first, then garbage, the card's queue, plans, cache, heap; models stay."""
    fake, shelf = FakeTorch(cached=3 * GB), Shelf()
    fake.returns = [GB]
    with shelf.lease("net", lambda: nn.Linear(2, 2)):
        pass
    cleaned = standard(fake.tools(shelf=shelf, hooks=[lambda: fake.calls.append("hook")]))
    assert fake.calls == ["hook", "synchronize", "cufft", "empty_cache"]
    assert cleaned.steps == ("references", "gc", "synchronize", "cuFFT plans", "cache", "heap")
    assert cleaned.freed == GB
    assert cleaned.failed == ()
    assert cleaned.seconds >= 0
    assert len(shelf.describe()) == 1


@pytest.mark.parametrize("level", [standard, aggressive, emergency])
def test_a_running_stage_is_not_waited_for(level: Callable[..., Cleaned]) -> None:
    """While a stage runs nothing synchronises and its workspaces stay."""
    fake = FakeTorch()
    level(fake.tools(), during_stage=True)
    assert "empty_cache" in fake.calls
    assert not {"synchronize", "cublas"} & set(fake.calls)


def test_aggressive() -> None:
    """Unleased models go before the garbage is collected; workspaces before the cache."""
    fake, shelf = FakeTorch(), Shelf()
    with shelf.lease("leased", lambda: nn.Linear(2, 2)):
        with shelf.lease("idle", lambda: nn.Linear(2, 2)):
            pass
        cleaned = aggressive(fake.tools(shelf=shelf))
        assert [row.name for row in shelf.describe()] == ["leased"]
    assert cleaned.steps[:2] == ("models", "gc")
    assert fake.calls == [
        "synchronize",
        "cufft",
        "cublas",
        "empty_cache",
        "reset_peak_memory_stats",
    ]


def test_emergency_goes_on_while_it_helps() -> None:
    """Passes are repeated until one frees nothing more, and end."""
    fake = FakeTorch(cached=10 * GB)
    fake.returns = [GB, 2 * GB]
    cleaned = emergency(fake.tools())
    assert fake.calls.count("empty_cache") == 3
    assert cleaned.freed == 3 * GB
    endless = FakeTorch(cached=100 * GB)
    endless.returns = [GB] * 50
    assert emergency(endless.tools()).freed == 5 * GB


def test_more_held_than_before() -> None:
    """If a neighbour lane took memory meanwhile, nothing was freed; never a negative figure."""
    held = iter([GB, 2 * GB])
    assert standard(FakeTorch().tools(held=lambda: next(held))).freed == 0


@pytest.mark.parametrize("level", [standard, aggressive, emergency])
@pytest.mark.parametrize("step", ["synchronize", "cufft", "cublas", "empty_cache"])
def test_a_step_that_fails_stops_nothing(
    level: Callable[..., Cleaned], step: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Any step may raise; the others are done, and what it said is kept for the recogniser."""
    fake = FakeTorch()
    fake.fails[step] = RuntimeError("CUDA error: an illegal memory access was encountered")
    cleaned = level(fake.tools(held=lambda: None))
    assert "heap" in cleaned.steps
    if step in fake.calls:
        (text,) = cleaned.failed
        assert "illegal memory access" in text
        assert text in caplog.text
    assert cleaned.freed is None


def test_hooks_and_measures_may_fail() -> None:
    """A hook or a probe that raises is said and passed over."""

    def broken() -> int:
        raise torch.OutOfMemoryError("CUDA error: out of memory")

    cleaned = emergency(FakeTorch().tools(hooks=[broken], held=broken))
    assert cleaned.freed is None
    assert [text.partition(":")[0] for text in cleaned.failed] == ["measuring", "references"]


def test_without_cuda_it_works_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """With torch but no CUDA in use only RAM is cleaned, and the log says that."""
    fake = FakeTorch(live=False)
    with caplog.at_level(logging.INFO):
        cleaned = aggressive(fake.tools())
    assert fake.calls == []
    assert cleaned.steps == ("gc", "heap")
    assert cleaned.freed is None
    assert "CUDA is not in use here, only RAM was cleaned" in caplog.text


def test_the_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """What people search the log for: the cleanup and the GB that came back."""
    fake = FakeTorch(cached=2 * GB)
    fake.returns = [1_800_000_000]
    with caplog.at_level(logging.INFO):
        standard(fake.tools())
    assert "GPU memory optimization completed - Freed 1.8GB (standard, " in caplog.text


def test_real_torch_without_a_card() -> None:
    """The real module on this machine: dropped modules are dead, freed bytes are measured."""
    shelf = Shelf()
    with shelf.lease("net", lambda: nn.Linear(1000, 1000)) as net:
        dead = weakref.ref(net)
    del net
    box = [torch.zeros(1000)]
    tensor = weakref.ref(box[0])

    def held() -> int:
        return 4_000_000 * (dead() is not None) + 4_000 * (tensor() is not None)

    cleaned = emergency(Tools(shelf=shelf, hooks=[box.clear], held=held))
    assert dead() is None
    assert tensor() is None
    assert cleaned.freed == 4_004_000
    assert cleaned.failed == ()


def test_torch_is_never_imported() -> None:
    """A process without torch is cleaned without it."""
    code = (
        "import sys; from pipeline.gpu.cleanup import Tools, emergency; "
        "print(emergency(Tools()).steps, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "('gc', 'heap') False"


def test_a_half_imported_torch() -> None:
    """Torch in the middle of its import has no `cuda` yet; that stops nothing."""
    cleaned = standard(Tools(torch=lambda: SimpleNamespace()))
    assert "heap" in cleaned.steps
    assert "CUDA" in cleaned.failed[0]


def test_trim_heap_twice() -> None:
    """The heap may be trimmed at any time."""
    trim_heap()
    assert isinstance(trim_heap(), bool)
