"""A card made of numbers, behind the seams of the real one: readings, NVML, an allocator.

    card = FakeCard(12 * GIB, neighbour=2 * GIB)
    with card.use(3 * GIB):          # a stage that needs 3 GiB; torch's own error if it is too much
        card.reading(now)            # what a gauge would say
    block = card.allocate(1 * GIB)   # lives as long as `block` does, like a tensor
    card.neighbour = 9 * GIB         # somebody else takes more, at any time
    card.refuse["nvmlDeviceGetMemoryInfo"] = 3   # NVML answers with that error code
    card.gauge()                     # a real Gauge that reads this card through its NVML

The allocator works like PyTorch's: freed blocks stay in its cache (reserved − allocated), and it
empties the cache by itself before it gives up. `outside` is what other libraries hold.
"""

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pynvml
from torch import OutOfMemoryError

from pipeline.core.card import Card
from pipeline.core.gauge import Gauge
from pipeline.core.processes import HOST_SPACE
from pipeline.core.reading import Reading

MIB = 1 << 20
GIB = 1 << 30
HINT = (
    "If reserved but unallocated memory is large try setting "
    "PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation for "
    "Memory Management  (https://docs.pytorch.org/docs/stable/notes/cuda.html"
    "#optimizing-memory-usage-with-pytorch-alloc-conf)"
)


class Block:
    """Memory on the card; given back to the allocator's cache when nothing holds the block."""

    def __init__(self, size: int) -> None:
        self.size = size


class FakeCard:
    """A card of `total` bytes; `reserve` is the driver's own, `neighbour` other people's.

    `context` is what the first allocation costs us outside the framework. `fail_at` holds the
    numbers of the allocations that fail whatever is free (the first is 1). `raises` makes the
    error from its text: replace it for another library's.
    """

    def __init__(
        self, total: int, *, reserve: int = 0, neighbour: int = 0, context: int = 0
    ) -> None:
        self.total = total
        self.reserve = reserve
        self.neighbour = neighbour
        self.context = context
        self.outside = 0  # what other libraries of ours hold
        self.cached = 0
        self.peak = 0  # allocated at its highest, since `reset_peak`
        self.allocations = 0  # tried so far
        self.fail_at: set[int] = set()
        self.raises: Callable[[str], BaseException] = OutOfMemoryError
        self.refuse: dict[str, int] = {}  # name of an NVML function: the error code it answers with
        self.busy = 0  # utilisation in percent
        self.pid = os.getpid()  # as the driver sees it
        self._blocks: dict[int, int] = {}
        self._used = False

    @property
    def allocated(self) -> int:
        """Bytes in living blocks."""
        return sum(self._blocks.values())

    @property
    def reserved(self) -> int:
        """Bytes that the framework holds, its cache included."""
        return self.allocated + self.cached

    @property
    def own(self) -> int:
        """All that our process holds."""
        return self.reserved + self.outside + (self.context if self._used else 0)

    @property
    def free(self) -> int:
        """Bytes that nobody holds, as the driver says."""
        return max(0, self.total - self.reserve - self.neighbour - self.own)

    def allocate(self, size: int) -> Block:
        """A block of `size` bytes; raises out of memory with the real text. Keep the result."""
        self.allocations += 1
        self._used = True
        fresh = max(0, size - self.cached)
        if fresh > self.free:
            self.empty_cache()
            fresh = size
        if fresh > self.free or self.allocations in self.fail_at:
            raise self.raises(self.text(size))
        self.cached -= size - fresh
        block = Block(size)
        self._blocks[id(block)] = size
        weakref.finalize(block, self._freed, id(block)).atexit = False
        self.peak = max(self.peak, self.allocated)
        return block

    @contextmanager
    def use(self, size: int) -> Iterator[Block]:
        """A stage that holds `size` bytes while it runs."""
        block = self.allocate(size)
        try:
            yield block
        finally:
            self._freed(id(block))

    def empty_cache(self) -> int:
        """Give the cache back to the driver; how many bytes that were."""
        freed, self.cached = self.cached, 0
        return freed

    def reset_peak(self) -> None:
        """Measure the peak from here."""
        self.peak = self.allocated

    def free_all(self) -> None:
        """Everything of ours is gone, as after the end of the process."""
        self._blocks.clear()
        self.cached = self.outside = self.peak = 0
        self._used = False

    def _freed(self, key: int) -> None:
        self.cached += self._blocks.pop(key, 0)

    def text(self, size: int) -> str:
        """What PyTorch says when `size` bytes do not fit."""
        return (
            f"CUDA out of memory. Tried to allocate {_size(size)}. "
            f"GPU 0 has a total capacity of {_size(self.total)} "
            f"of which {_size(self.free)} is free. "
            f"Including non-PyTorch memory, this process has {_size(self.own)} memory in use. "
            f"Of the allocated memory {_size(self.allocated)} is allocated by PyTorch, "
            f"and {_size(self.cached)} is reserved by PyTorch but unallocated. {HINT}"
        )

    def reading(self, now: float = 0.0) -> Reading:
        """What a gauge would say, without the way through NVML; `refuse` does not touch it."""
        return Reading(
            at=now,
            total=self.total,
            free=self.free,
            own=self.own,
            listed=self._used,
            others=1 if self.neighbour else 0,
            allocated=self.allocated,
            reserved=self.reserved,
            gpu_percent=self.busy,
            own_percent=self.busy if self._used else 0,
            encoder_sessions=0,
            own_sessions=0,
        )

    def gauge(self) -> Gauge:
        """A real gauge on this card."""
        return Gauge(gpu=True, card=Card(self.nvml(), "the card", HOST_SPACE))

    def nvml(self) -> Any:
        """A stand-in for the module pynvml that answers from this card, with its real errors."""
        return FakeNvml(self)


class FakeNvml:
    """The questions of pynvml that Penstock asks, answered by a FakeCard."""

    NVMLError = pynvml.NVMLError

    def __init__(self, card: FakeCard) -> None:
        self._card = card

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def question(*args: object) -> Any:
            code = self._card.refuse.get(name)
            if code is not None:
                raise pynvml.NVMLError(code)
            return self._answer(name, *args)

        return question

    def _answer(self, name: str, *_args: object) -> Any:
        card = self._card
        sample = SimpleNamespace(pid=card.pid, smUtil=card.busy, timeStamp=1)
        answers: dict[str, Callable[[], Any]] = {
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlDeviceGetCount": lambda: 1,
            "nvmlDeviceGetHandleByIndex": lambda: "the card",
            "nvmlDeviceGetName": lambda: "NVIDIA GeForce RTX 3060",
            "nvmlSystemGetDriverVersion": lambda: "580.95.05",
            "nvmlDeviceGetMemoryInfo": lambda: SimpleNamespace(
                total=card.total, free=card.free, used=card.total - card.free
            ),
            "nvmlDeviceGetUtilizationRates": lambda: SimpleNamespace(gpu=card.busy, memory=0),
            "nvmlDeviceGetComputeRunningProcesses": self._processes,
            "nvmlDeviceGetGraphicsRunningProcesses": list,
            "nvmlDeviceGetProcessUtilization": lambda: [sample] if card.own else [],
            "nvmlDeviceGetEncoderSessions": list,
            "nvmlDeviceGetDisplayActive": lambda: 0,
        }
        if name not in answers:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return answers[name]()

    def _processes(self) -> list[SimpleNamespace]:
        card = self._card
        held = [SimpleNamespace(pid=1, usedGpuMemory=card.neighbour)] if card.neighbour else []
        if card.own:
            held.append(SimpleNamespace(pid=card.pid, usedGpuMemory=card.own))
        return held


def _size(size: int) -> str:
    if size >= GIB:
        return f"{size / GIB:.2f} GiB"
    return f"{size / MIB:.2f} MiB" if size >= MIB else f"{size} bytes"
