"""What the tests on a real card share: reasons to skip, bounds of time, a manager, the figures."""

import functools
import gc
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, ParamSpec, TypeVar

import pytest

from pipeline.core.card import Card, open_card
from pipeline.core.contract import Note, Order
from pipeline.core.gauge import Gauge
from pipeline.core.memory_settings import MemorySettings
from pipeline.gpu.history import History
from pipeline.gpu.manager import Memory

MIB = 1 << 20
GIB = 1 << 30
GB = 1_000_000_000
ALL_SECONDS = 540  # that `make test-gpu` may take
POLL_S = 0.05
BOUNDS: dict[str, int] = {}  # seconds that each test may take in all its cases

P = ParamSpec("P")
R = TypeVar("R")


def skip_reason(built_for: str | None, sees_card: bool, nvml: str) -> str:
    """Why nothing can be tested here, or empty.

    `built_for` is torch's CUDA version, `nvml` why the driver can not be asked.
    """
    if built_for is None:
        return "this torch is built for the CPU only"
    if not sees_card:
        return f"torch (CUDA {built_for}) sees no card" + (f": {nvml}" if nvml else "")
    return f"the driver can not be asked: {nvml}" if nvml else ""


def cuda_or_skip() -> Any:
    """The torch module, if it can use a card and the driver can be asked."""
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    reason = skip_reason(torch.version.cuda, torch.cuda.is_available(), open_card()[1])
    if reason:
        pytest.skip(reason)
    return torch


def within(seconds: int, *, cases: int = 1) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A bound on one run of a test; TimeoutError beyond it. For the main thread only."""

    def bounded(test: Callable[P, R]) -> Callable[P, R]:
        BOUNDS[f"{test.__module__}.{test.__qualname__}"] = seconds * cases

        def too_late(_signal: int, _frame: object) -> None:
            raise TimeoutError(f"{test.__name__} took more than {seconds} s")

        @functools.wraps(test)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            before = signal.signal(signal.SIGALRM, too_late)
            signal.alarm(seconds)
            try:
                return test(*args, **kwargs)
            finally:
                signal.alarm(0)
                signal.signal(signal.SIGALRM, before)

        return run

    return bounded


class Figures:
    """What was measured, in the order of the tests."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []

    def add(self, what: str, value: str) -> None:
        """One row."""
        self.rows.append((what, " ".join(value.replace("|", "/").split())))

    def table(self, title: str) -> str:
        """All rows as a Markdown table."""
        rows = [f"| {what} | {value} |" for what, value in self.rows]
        return "\n".join(["", f"### {title}", "", "| figure | measured |", "|---|---|", *rows, ""])


@contextmanager
def managed(**settings: Any) -> Iterator[tuple[Memory, list[Note]]]:
    """A worker's memory management on the real card, and what it says; nothing learned yet."""
    said: list[Note] = []
    with closing(History.open(b":memory:")) as history:
        yield Memory(MemorySettings(**settings), Gauge(gpu=True), history, said.append), said


def some_order() -> Order:
    """An order of which only its number and device matter."""
    return Order(
        job=1, attempt=1, recipe="noop", root=b"/", name=b"x", mark="", stem=b"x", scratch=b"/",
        staging=b"/", device="cuda",
    )  # fmt: skip


def the_card() -> Card:
    """The card through NVML; the tests have skipped if there is none."""
    card, why = open_card()
    assert card, why
    return card


def free_now(card: Card) -> int:
    """Bytes of the card that nobody holds."""
    free = card.free()
    assert free is not None, card.gaps
    return free


def seconds_until_free(card: Card, wanted: int, bound: float) -> float | None:
    """How long until that many bytes are free; None if not within the bound."""
    begun = time.monotonic()
    while (took := time.monotonic() - begun) <= bound:
        if free_now(card) >= wanted:
            return took
        time.sleep(POLL_S)
    return None


def machine(torch: Any) -> str:
    """The card and the software, for the head of a table."""
    name = torch.cuda.get_device_name(0)
    return f"{name}, driver {the_card().driver()}, torch {torch.__version__}"


def tidy(torch: Any) -> None:
    """Nothing of an earlier test stays on the card but the context."""
    gc.collect()
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
