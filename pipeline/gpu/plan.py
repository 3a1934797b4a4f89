"""Who may take how much of the card: reservations that two threads can not both pass.

`check_memory` answers with a lease or with what to do instead. The rule: at every moment that a
lease is given, what we hold plus what is promised stays within the capacity that the caller read.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

import msgspec

from pipeline.core.learned import BatchStats, line_of
from pipeline.core.text import human_bytes
from pipeline.gpu.history import History
from pipeline.gpu.lines import GB, check_line
from pipeline.gpu.peaks import PeakModel
from pipeline.gpu.values import Features, Key, Observation, Reading

log = logging.getLogger("penstock.memory")

UNLIMITED = 1 << 62
WAIT_S = 120.0  # nobody waits longer for a neighbour before the CPU is taken
TRUSTED_RUNS = 20  # before a batch may go above the wanted one
GOOD_SHARE = 0.5  # of the wanted batch: enough to run now rather than to evict a model


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage asks for, in bytes beyond what is already on the card for it."""

    fixed: int  # whatever the batch
    each: int = 0  # for every item of the batch
    batch: int = 1  # items wanted
    least: int = 1  # items below which it is not worth running
    what: str = ""  # the stage, for the log
    may_cpu: bool = True  # it can run without the card
    until: float | None = None  # clock seconds; how long it has agreed to wait, from `Wait`

    def size(self, batch: int) -> int:
        """Bytes for that many items."""
        return self.fixed + self.each * batch

    @property
    def smallest(self) -> int:
        """Bytes for the fewest items that are worth running."""
        return self.size(min(self.least, self.batch))

    def batch_within(self, left: int) -> int:
        """The largest batch, at most the wanted one, that fits into `left`; 0 if none does."""
        if self.smallest > left:
            return 0
        return self.batch if self.each <= 0 else min(self.batch, (left - self.fixed) // self.each)


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What there is: a reading, the capacity made of it, and what could be dropped from it."""

    reading: Reading
    # Bytes that we may hold in all: min(budget, own + free - reserve). None: nobody can tell; then
    # everything is granted, and running out is left to the ladder.
    capacity: int | None
    ceiling: int | None = None  # bytes that the capacity can never exceed: the budget
    idle: Mapping[str, int] = {}  # unleased models and their bytes, least recently used first


class Lease:
    """A promise of bytes; a context manager. Giving it back twice is harmless."""

    def __init__(self, planner: "Planner", size: int, what: str) -> None:
        self._planner = planner
        self.size = size
        self.what = what

    def spent(self, size: int) -> None:
        """Say that `size` bytes of it are taken by now, and so counted in the reading's `own`."""
        self._planner.settle(self, size)

    def release(self) -> None:
        """Give the bytes back."""
        self._planner.release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class Fit(msgspec.Struct, frozen=True):
    """All of it is reserved."""

    lease: Lease


class FitBatch(msgspec.Struct, frozen=True):
    """A smaller batch is reserved."""

    batch: int
    lease: Lease


class Evict(msgspec.Struct, frozen=True):
    """Drop these models, read the card anew and ask again; nothing is reserved."""

    names: tuple[str, ...]


class Wait(msgspec.Struct, frozen=True):
    """Ask again when something was given back, with `until` (clock seconds) in the need."""

    until: float


class Cpu(msgspec.Struct, frozen=True):
    """The card has no room in time; run without it."""

    why: str


class Never(msgspec.Struct, frozen=True):
    """The card can not hold it even when empty, or the stage can not run without it."""

    why: str


Answer = Fit | FitBatch | Evict | Wait | Cpu | Never


class Planner:
    """Reservations and batch sizes; every method may be called from any thread."""

    def __init__(self, history: History, clock: Callable[[], float]) -> None:
        self._history = history
        self._clock = clock
        self._given = threading.Condition()
        self._open: dict[Lease, int] = {}  # and the bytes of it that are not yet taken
        self._learning = threading.Lock()
        self._models: dict[Key, PeakModel] = {}
        self._told: dict[Key, int] = {}

    def check_memory(
        self,
        required_gb: float,
        *,
        reading: Reading,
        capacity: int | None,
        idle: Mapping[str, int] | None = None,
    ) -> Answer:
        """`reserve` for a plain number of GB (1e9 bytes)."""
        room = Room(reading=reading, capacity=capacity, idle=idle or {})
        return self.reserve(Need(fixed=round(required_gb * GB)), room)

    def reserve(self, need: Need, room: Room) -> Answer:
        """Reserve what fits, or say what to do instead. One atomic step."""
        own = room.reading.own
        with self._given:
            promised = sum(self._open.values())
            left = None
            if room.capacity is not None:
                left = max(0, room.capacity - (own or 0) - promised)
            answer = self._lease_or_none(need, left, room.idle)
        if answer is None:
            answer = decide(need, room, left or 0, self._clock())
        log.info("%s%s", check_line(own, need.size(need.batch), left), _told(need, answer))
        return answer

    def _lease_or_none(
        self, need: Need, left: int | None, idle: Mapping[str, int]
    ) -> Answer | None:
        batch = need.batch if left is None else need.batch_within(left)
        short = batch < need.batch
        if batch < 1:
            return None
        if left is not None and batch < GOOD_SHARE * need.batch and to_evict(need, left, idle):
            return None
        lease = Lease(self, need.size(batch), need.what)
        self._open[lease] = lease.size
        return FitBatch(batch, lease) if short else Fit(lease)

    def settle(self, lease: Lease, spent: int) -> None:
        """What `Lease.spent` calls."""
        with self._given:
            if lease in self._open:
                self._open[lease] = min(self._open[lease], max(0, lease.size - spent))
                self._given.notify_all()

    def release(self, lease: Lease) -> None:
        """What `Lease.release` calls."""
        with self._given:
            if self._open.pop(lease, None) is not None:
                self._given.notify_all()

    def wait(self, seconds: float) -> bool:
        """Sleep until a lease gives something back; False if none did in that time."""
        with self._given:
            return self._given.wait(seconds)

    @property
    def reserved(self) -> int:
        """Bytes that are promised and not yet taken."""
        with self._given:
            return sum(self._open.values())

    def leases(self) -> list[tuple[str, int]]:
        """What is leased now: stage and bytes, for the status."""
        with self._given:
            return [(lease.what, lease.size) for lease in self._open]

    def choose_batch(
        self, key: Key, features: Features, *, wanted: int, most: int, capacity_left: int | None
    ) -> int:
        """The batch to try: at most `wanted`, after 20 runs at most `most`; 0 if none fits.

        `capacity_left` is what the run may hold in all, weights included, in bytes; None if nobody
        can tell.
        """
        with self._learning:
            model = self._model(key)
            limit = most if model.runs >= TRUSTED_RUNS else min(wanted, most)
            left = UNLIMITED if capacity_left is None else capacity_left
            batch = model.largest_batch(left, features, limit)
            news = self._told.get(key) != batch
            self._told[key] = batch
            rows = model.summary() if news else []
        tried = [row for row in rows if row.batch <= max(1, batch)] or rows
        if tried:
            log.info("%s: %s", key.stage, line_of(tried[-1], batch))
        return batch

    def bound(self, key: Key, features: Features, batch: int) -> int | None:
        """Bytes that nearly every such run stays below; None while too little is known."""
        with self._learning:
            return self._model(key).bound(batch, features)

    def observe(self, key: Key, run: Observation) -> None:
        """Learn from a run; it is on disk before this returns, so call it before any retry."""
        with self._learning:
            model = self._model(key)
            self._history.record(key, run)
            model.add(run)

    def summary(self, key: Key) -> list[BatchStats]:
        """How each batch size did, smallest first."""
        with self._learning:
            return self._model(key).summary()

    def _model(self, key: Key) -> PeakModel:
        if key not in self._models:
            self._models[key] = PeakModel(self._history.load(key))
        return self._models[key]


def decide(need: Need, room: Room, left: int, now: float) -> Answer:
    """What to do when `left` bytes are not enough. Pure."""
    least = need.smallest
    most = min(size for size in (room.ceiling, room.reading.total, least) if size is not None)
    if most < least:
        return Never(f"it needs {human_bytes(least)}, and at most {human_bytes(most)} can be had")
    names = to_evict(need, left, room.idle)
    if names:
        return Evict(names)
    if need.until is None:
        return Wait(now + WAIT_S)
    if now < need.until:
        return Wait(need.until)
    why = f"it needs {human_bytes(least)}, and {human_bytes(left)} were free for too long"
    return Cpu(why) if need.may_cpu else Never(why)


def to_evict(need: Need, left: int, idle: Mapping[str, int]) -> tuple[str, ...]:
    """The fewest idle models, in order, that make room for the wanted batch or for the least."""
    for wanted in (need.size(need.batch), need.smallest):
        names = _first_enough(wanted - left, idle)
        if names:
            return names
    return ()


def _first_enough(missing: int, idle: Mapping[str, int]) -> tuple[str, ...]:
    names: list[str] = []
    for name, size in idle.items():
        if missing <= 0:
            break
        names.append(name)
        missing -= size
    return tuple(names) if missing <= 0 else ()


def _told(need: Need, answer: Answer) -> str:
    """The answer as the tail of a log line."""
    tail: Sequence[str]
    match answer:
        case Fit():
            tail = ()
        case FitBatch(batch):
            tail = (f"batch {batch} instead of {need.batch}",)
        case Evict(names):
            tail = (f"evicting {', '.join(names)}",)
        case Wait():
            tail = ("waiting for room",)
        case Cpu(why) | Never(why):
            tail = (f"not on the card: {why}",)
    return "".join(f" ({part})" for part in (*((need.what,) if need.what else ()), *tail))
