"""One run of a stage as memory sees it: readings before, during and after, its plan, its peak."""

import sys
from typing import Any

from pipeline.core.reading import Reading
from pipeline.gpu.plan import Lease
from pipeline.gpu.recycle import outside
from pipeline.gpu.values import Features, Key, Observation
from pipeline.gpu.verdict import Counters

KEPT = 600  # readings; a longer stage keeps its first, its last and the highest


class StageWatch:
    """Collects readings while a stage runs. Written under the manager's lock."""

    def __init__(self, stage: str, first: Reading, now: float, job: int | None = None) -> None:
        self.stage = stage
        self.job = job
        self.key: Key | None = None
        self.features = Features()
        self.batch = 0
        self.leases: list[Lease] = []  # given back when the stage ends
        self.readings = [first]
        self._begun = now
        self._allocations = torch_allocations()
        self._allocated = first.allocated or 0
        reset_torch_peak()

    def add(self, reading: Reading) -> None:
        """One more look; bounded for stages that run for hours."""
        self.readings.append(reading)
        if len(self.readings) > KEPT:
            highest = max(self.readings[1:-1], key=lambda one: (one.own or 0, one.gpu_percent or 0))
            self.readings[1:-1] = [highest]

    def planned(self, key: Key, features: Features, batch: int) -> None:
        """What the stage was told to take at once; its peak will be learned under this key."""
        self.key, self.features, self.batch = key, features, batch

    def peak(self) -> int | None:
        """The most that was held at once, in bytes, by the best witness there is."""
        if self.key is not None and self.key.device == "cpu":
            return _highest([reading.host_own for reading in self.readings])
        seen = _highest([reading.own for reading in self.readings])
        told = torch_peak()
        # The framework saw its own peak, but not the context and other libraries beside it.
        beside = _highest([outside(reading) for reading in self.readings])
        known = [size for size in (seen, told + max(0, beside or 0) if told else None) if size]
        return max(known, default=None)

    def observation(self, now: float, *, oom: bool) -> Observation | None:
        """What is learned from this run; None if nothing was planned or measured."""
        peak = self.peak()
        if self.key is None or not self.batch or peak is None:
            return None
        last = self.readings[-1]
        if oom and last.own is not None and last.free is not None and self.key.device != "cpu":
            peak = last.own + last.free  # it wanted more than there was
        return Observation(
            batch=self.batch, features=self.features, peak=peak, seconds=now - self._begun, oom=oom
        )

    def counters(self) -> Counters | None:
        """The allocator's own witness that the card was used; None without torch on a card."""
        after = torch_allocations()
        if after is None:
            return None
        return Counters(
            allocations=after - (self._allocations or 0),
            before=self._allocated,
            peak=torch_peak(allocated=True) or 0,
        )


def _highest(values: list[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _cuda() -> Any:
    """torch.cuda if somebody loaded torch and uses a card; never loads it."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    try:
        return cuda if cuda is not None and cuda.is_initialized() else None
    except (AttributeError, RuntimeError):  # torch is being imported by another thread
        return None


def torch_figures() -> tuple[int | None, int | None]:
    """Bytes allocated and reserved by torch on the card; None without it."""
    cuda = _cuda()
    if cuda is None:
        return None, None
    try:
        return int(cuda.memory_allocated()), int(cuda.memory_reserved())
    except RuntimeError:  # a poisoned context answers nothing
        return None, None


def torch_allocations() -> int | None:
    """How many blocks torch has ever asked of the driver."""
    cuda = _cuda()
    if cuda is None:
        return None
    try:
        return int(cuda.memory_stats().get("num_device_alloc", 0))
    except RuntimeError:
        return None


def torch_peak(*, allocated: bool = False) -> int | None:
    """The most that torch reserved (or had allocated) since the last reset."""
    cuda = _cuda()
    if cuda is None:
        return None
    try:
        return int(cuda.max_memory_allocated() if allocated else cuda.max_memory_reserved())
    except RuntimeError:
        return None


def reset_torch_peak() -> None:
    """Begin a new peak."""
    cuda = _cuda()
    if cuda is not None:
        try:
            cuda.reset_peak_memory_stats()
        except RuntimeError:
            return
