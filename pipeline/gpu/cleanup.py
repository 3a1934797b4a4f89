"""Cleaning up after work: references, cyclic garbage, the framework's caches, the C library's heap.

Torch is touched only if somebody else has imported it and CUDA is in use. Nothing is ever moved to
the CPU: on a card that is full, moving allocates. Every step may fail and says so; none stops the
next. Call it outside of any `except`: a traceback keeps tensors alive.
"""

import ctypes
import gc
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from pipeline.core.text import shown
from pipeline.gpu.lines import freed_line

log = logging.getLogger("penstock.memory.cleanup")

PASSES = 5  # of an emergency, at most
Step = tuple[str, Callable[[], object]]


class Droppable(Protocol):
    """What of the shelf a cleanup needs."""

    def evict_all_unleased(self) -> Sequence[object]:
        """Drop every model that nobody has leased."""


class Cleaned(msgspec.Struct, frozen=True, kw_only=True):
    """What a cleanup did: bytes that came back (None: can not be measured), steps, seconds."""

    freed: int | None
    steps: tuple[str, ...]
    seconds: float
    failed: tuple[str, ...] = ()  # a step and what it raised; a sticky CUDA error shows here


def loaded_torch() -> Any:
    """The torch module if somebody has imported it, else None."""
    return sys.modules.get("torch")


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What a cleanup works with."""

    shelf: Droppable | None = None
    hooks: Sequence[Callable[[], object]] = ()  # each drops references that somebody keeps
    held: Callable[[], int | None] | None = None  # bytes that we hold; else torch's own figure
    torch: Callable[[], Any] = loaded_torch
    clock: Callable[[], float] = time.monotonic


def standard(tools: Tools, *, during_stage: bool = False) -> Cleaned:
    """References, garbage, caches. While a stage runs nothing waits for the card."""
    return _cleaned(tools, "standard", lambda cuda: _light(tools, cuda, during_stage), 1)


def aggressive(tools: Tools, *, during_stage: bool = False) -> Cleaned:
    """The same, and every unleased model, cuBLAS workspaces and peak statistics."""
    return _cleaned(tools, "aggressive", lambda cuda: _deep(tools, cuda, during_stage), 1)


def emergency(tools: Tools, *, during_stage: bool = False) -> Cleaned:
    """The aggressive one again and again until nothing more comes back."""
    return _cleaned(tools, "emergency", lambda cuda: _deep(tools, cuda, during_stage), PASSES)


def _light(tools: Tools, cuda: Any, during_stage: bool) -> list[Step]:
    steps: list[Step] = [("references", hook) for hook in tools.hooks]
    steps.append(("gc", gc.collect))
    if cuda is not None:
        if not during_stage:
            # CTranslate2 and others give their pools back at a synchronize, so it comes first.
            steps.append(("synchronize", lambda: cuda.cuda.synchronize()))
        steps.append(("cuFFT plans", lambda: cuda.backends.cuda.cufft_plan_cache.clear()))
        steps.append(("cache", lambda: cuda.cuda.empty_cache()))
    return [*steps, ("heap", trim_heap)]


def _deep(tools: Tools, cuda: Any, during_stage: bool) -> list[Step]:
    steps = _light(tools, cuda, during_stage)
    if cuda is not None:
        at = [name for name, _work in steps].index("cache")
        if not during_stage:  # a running stage's multiplications may be using them
            steps.insert(at, ("cuBLAS workspaces", lambda: cuda._C._cuda_clearCublasWorkspaces()))
        steps.append(("peak statistics", lambda: cuda.cuda.reset_peak_memory_stats()))
    if tools.shelf is not None:
        steps.insert(len(tools.hooks), ("models", tools.shelf.evict_all_unleased))
    return steps


def _cleaned(tools: Tools, level: str, plan: Callable[[Any], list[Step]], passes: int) -> Cleaned:
    started = tools.clock()
    cuda, failed = _live_cuda(tools.torch)
    held = tools.held or (lambda: None if cuda is None else int(cuda.cuda.memory_reserved()))
    first = before = _measured(held, failed)
    done: list[str] = []
    for number in range(passes):
        _run(plan(cuda), done, failed)
        last = _measured(held, failed)
        if last is None or before is None:
            if number:  # nobody can say what came back: twice is enough
                break
        elif last >= before:
            break
        before = last
    cleaned = Cleaned(
        freed=None if first is None or last is None else max(0, first - last),
        steps=tuple(dict.fromkeys(done)),
        seconds=tools.clock() - started,
        failed=tuple(dict.fromkeys(failed)),
    )
    _tell(cleaned, level, cuda is not None)
    return cleaned


def _run(steps: Sequence[Step], done: list[str], failed: list[str]) -> None:
    for name, work in steps:
        try:
            work()
            done.append(name)
        except Exception as error:  # noqa: BLE001  # a poisoned card raises anything, anywhere
            failed.append(f"{name}: {type(error).__name__}: {error}")


def _measured(held: Callable[[], int | None], failed: list[str]) -> int | None:
    try:
        return held()
    except Exception as error:  # noqa: BLE001  # on a full card even the probe can run out
        failed.append(f"measuring: {type(error).__name__}: {error}")
        return None


def _live_cuda(find: Callable[[], Any]) -> tuple[Any, list[str]]:
    """The torch module if this process uses CUDA, else None; asking must not make a context."""
    torch = find()
    try:
        return (torch if torch is not None and torch.cuda.is_initialized() else None), []
    except Exception as error:  # noqa: BLE001  # half-imported, or a driver that fails
        return None, [f"CUDA: {type(error).__name__}: {error}"]


def trim_heap() -> bool:
    """Ask the C library for its free pages; False where it has no such call (musl, macOS)."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return False
    return bool(trim(0))


def _tell(cleaned: Cleaned, level: str, cuda: bool) -> None:
    log.info(
        "%s (%s, %.2f s: %s)%s",
        *(freed_line(cleaned.freed), level, cleaned.seconds, ", ".join(cleaned.steps)),
        "" if cuda else "; CUDA is not in use here, only RAM was cleaned",
    )
    for text in cleaned.failed:
        log.warning("A step of the %s cleanup failed: %s", level, shown(text))
