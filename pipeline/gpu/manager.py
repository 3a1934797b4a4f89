"""Memory in one worker: samples, tiers, cleanups, plans, the shelf, and when to begin afresh."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from pipeline.core.contract import Note, Order
from pipeline.core.errors import NoMemory
from pipeline.core.faults import Kind, classify
from pipeline.core.gauge import Gauge
from pipeline.core.memory_settings import MemorySettings
from pipeline.core.reading import Reading
from pipeline.core.stage import Load
from pipeline.gpu import cleanup, lines
from pipeline.gpu.history import History
from pipeline.gpu.plan import Cpu, Evict, Fit, FitBatch, Need, Never, Planner, Room, Wait
from pipeline.gpu.pressure import (
    HOST_LIMITS,
    Action,
    Limits,
    State,
    capacity,
    host_share,
    share,
    step,
)
from pipeline.gpu.profiles import PROFILES, choose
from pipeline.gpu.recycle import Life, RecycleLimits, outside, reason_to_recycle
from pipeline.gpu.shelf import Shelf
from pipeline.gpu.usage import StageWatch, torch_figures
from pipeline.gpu.values import Features, Key
from pipeline.gpu.verdict import Word, of_stage, warning

log = logging.getLogger("penstock.memory")

FLOORS_KEPT = 60  # files over which leaks are judged
WAIT_S = 0.5  # between looks while a stage waits for room
HOST_RESERVE = 1_000_000_000  # bytes of RAM that a plan leaves to everybody else


class Memory:
    """What the runner asks before, during and after a stage. Every method is safe in any thread."""

    def __init__(
        self,
        settings: MemorySettings,
        gauge: Gauge,
        history: History,
        say: Callable[[Note], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.settings = settings
        self.gauge = gauge
        self.shelf = Shelf(held=self._held, clock=clock)
        self.planner = Planner(history, clock)
        self._say = say
        self._clock = clock
        self._lock = threading.RLock()
        self._card, self._host = State(), State()
        self._reading = self._read()
        self.profile = (
            choose(self._reading.total, self._reading.host_total or 0, _cores())
            if settings.profile == "auto"
            else PROFILES[settings.profile]
        )
        budget = int(settings.budget_gb * lines.GB) or self.profile.budget(self._reading.total)
        self._budget = budget
        self._limits, self._host_limits = limits_of(settings)
        self._watches: set[StageWatch] = set()
        self._tools = cleanup.Tools(shelf=self.shelf, held=self._held, clock=clock)
        self._started = clock()
        self._files = 0
        self._since_cleanup = 0
        self._floors: list[int] = []
        self._residents: list[int] = []
        self._outside_at_start: int | None = None
        self._sticky = ""  # an error after which this process can not use the card
        self._overdue = False  # pressure outlasted its deadline: only a fresh worker helps
        self._sleep = sleep

    # --- looking

    def sample(self) -> str:
        """Look, and do what the tiers ask; returns why the worker should be replaced, or ""."""
        with self._lock:
            self._reading = reading = self._read()
            for watch in self._watches:
                watch.add(reading)
            now = self._clock()
            card_share, its_share = self._shares()
            card = self._stepped("GPU", card_share, now)
            host = self._stepped("host", its_share, now)
        for action in (card, host):
            if action in (Action.RECYCLE, Action.CPU):
                self._overdue = True
                return "memory pressure did not fall within its deadline"
        return ""

    def _stepped(self, what: str, part: float | None, now: float) -> Action | None:
        card = what == "GPU"
        before = self._card if card else self._host
        limits = self._limits if card else self._host_limits
        stalled = None if card else self._reading.stalled
        after, action = step(before, part, now, limits, stalled=stalled)
        self._set(card, after)
        if after.tier is not before.tier:
            self.note("tier", lines.tier_line(before.tier, after.tier, part, what), share=part)
        if action in (Action.STANDARD, Action.AGGRESSIVE, Action.EMERGENCY):
            self.note("memory", lines.pressure_line(after.tier, part), share=part)
            self.clean(str(action))
            cleaned, _more = step(after, part, now, limits, stalled=stalled, cleaned=True)
            self._set(card, cleaned)
        return action

    def _set(self, card: bool, state: State) -> None:
        if card:
            self._card = state
        else:
            self._host = state

    def _read(self) -> Reading:
        allocated, reserved = torch_figures()
        return self.gauge.reading(self._clock(), allocated=allocated, reserved=reserved)

    def _held(self) -> int | None:
        reading = self._read()
        return reading.own if reading.own is not None else reading.host_own

    def _reserve(self) -> int:
        return self.gauge.reserve()

    @property
    def last_reading(self) -> Reading:
        """The newest sample."""
        return self._reading

    @property
    def admits(self) -> bool:
        """Whether a new stage may begin; False only for a bounded time."""
        return self._card.admits and self._host.admits

    # --- cleaning

    def clean(self, level: str) -> None:
        """Standard, aggressive or emergency cleanup, with a line that says what came back."""
        during = bool(self._watches)
        work = {
            "standard": cleanup.standard,
            "aggressive": cleanup.aggressive,
            "emergency": cleanup.emergency,
        }[level]
        cleaned = work(self._tools, during_stage=during)
        for text in cleaned.failed:
            if classify(text) in (Kind.REPLACE_WORKER, Kind.DEVICE_LOST):
                self._sticky = text
        self.note(
            "cleanup", f"{lines.freed_line(cleaned.freed)} ({level})", level=level,
            freed=cleaned.freed, steps=list(cleaned.steps), seconds=round(cleaned.seconds, 3),
        )  # fmt: skip

    def after_file(self) -> str:
        """Between files: the regular cleanup, the leak record; why to begin afresh, or ""."""
        with self._lock:
            self._files += 1
            self._since_cleanup += 1
            if self._since_cleanup >= self.settings.cleanup_every:
                self._since_cleanup = 0
                self.clean("standard")
            return self._why_afresh()

    def _why_afresh(self) -> str:
        reading = self._reading = self._read()
        if self._outside_at_start is None:
            self._outside_at_start = outside(reading)
        for floor, kept in ((reading.own, self._floors), (reading.host_own, self._residents)):
            if floor is not None:
                kept.append(floor)
                del kept[:-FLOORS_KEPT]
        life = Life(
            age_seconds=self._clock() - self._started, files=self._files,
            allocated=reading.allocated, reserved=reading.reserved, capacity=self.capacity(),
            outside_at_start=self._outside_at_start, outside=outside(reading),
            floors=tuple(self._floors), residents=tuple(self._residents),
            host_limit=reading.host_total, surviving=tuple(self.shelf.survivors()),
            sticky=self._sticky,
        )  # fmt: skip
        limits = RecycleLimits(files=self.settings.recycle_files, hours=self.settings.recycle_hours)
        return reason_to_recycle(life, limits)

    # --- planning

    def capacity(self) -> int | None:
        """Bytes of the card that we could hold in all; None without a card."""
        return capacity(self._reading, self._budget, self._reserve())

    def room(self, device: str) -> int | None:
        """Bytes that a run on this device may hold in all."""
        if device != "cpu":
            return self.capacity()
        reading = self._reading
        if reading.host_free is None:
            return None
        return max(0, reading.host_free + (reading.host_own or 0) - HOST_RESERVE)

    @contextmanager
    def watching(self, stage: str, job: int | None = None) -> Iterator[StageWatch]:
        """Around one run of a stage: its readings, its plan, its peak."""
        with self._lock:
            watch = StageWatch(stage, self._read(), self._clock(), job)
            self._watches.add(watch)
        try:
            yield watch
        finally:
            with self._lock:
                watch.add(self._read())
                self._watches.discard(watch)
            for lease in watch.leases:
                lease.release()

    def choose_batch(
        self, watch: StageWatch, part: float, beat: Callable[[], None], wanted: int, load: Load
    ) -> int:
        """How many items a stage takes at once, their memory reserved until the stage ends.

        `part` is the share that the ladder leaves it. NoMemory if no room can be had in time.
        """
        card = load.device != "cpu"
        device = (self.gauge.gpu_name() or load.device) if card else "cpu"
        # With every saving it is another load: what ran out without them says nothing about it.
        model = load.model if part else f"{load.model} (frugal)"
        key = Key(
            stage=watch.stage, model=model, dtype=load.dtype, device=device, versions=load.versions
        )
        features = Features(seconds=load.seconds)
        most = self._card.batch(max(1, int(wanted * part)))
        first = min(most, self.profile.whisper_batch)
        batch = self.planner.choose_batch(
            key, features, wanted=first, most=most, capacity_left=self.room(load.device)
        )
        batch = max(1, batch)  # one item is always tried; the ladder knows what to do if it fails
        self._reserve_for(watch, self.planner.bound(key, features, batch) or 0, card, beat)
        watch.planned(key, features, batch)
        text = f"{watch.stage}: batch {batch} of at most {wanted}"
        self.note("plan", text, watch.job, stage=watch.stage, batch=batch, wanted=wanted)
        return batch

    def _reserve_for(
        self, watch: StageWatch, required: int, card: bool, beat: Callable[[], None]
    ) -> None:
        """Promise the bytes to this run; make room or wait for it where they are not there."""
        until: float | None = None
        while True:
            reading = self._read()
            if not card:
                reading = msgspec.structs.replace(
                    reading, own=reading.host_own, free=reading.host_free, total=reading.host_total
                )
            need = Need(fixed=max(0, required - (reading.own or 0)), what=watch.stage, until=until)
            room = Room(
                reading=reading, capacity=self.room("cuda" if card else "cpu"),
                ceiling=self._budget if card else None, idle=self.shelf.idle(),
            )  # fmt: skip
            match self.planner.reserve(need, room):
                case Fit(lease) | FitBatch(_, lease):
                    watch.leases.append(lease)
                    return
                case Evict(names):
                    self.shelf.evict_named(names)
                    self.clean("standard")
                case Wait(end):
                    until = end
                    beat()
                    self._sleep(WAIT_S)
                case Cpu(why) | Never(why):
                    raise NoMemory(why, "drop a shorter file, or give this machine more memory")

    def verdict(self, watch: StageWatch, order: Order, ran_on: str) -> dict[str, Any]:
        """Whether a stage of the card's lane really used the card; loud if it did not."""
        meant = "cuda" if order.device != "cpu" and self.gauge.gpu_name() else "cpu"
        found = of_stage(meant, watch.readings, counters=watch.counters(), ran_on=ran_on)
        if found.word is Word.NOT_APPLICABLE:
            return {}
        text = warning(watch.stage, found) or f"{watch.stage}: GPU use {found.word}"
        loud = found.word is Word.NOT_USED
        self.note("verdict", text, order.job, loud=loud, verdict=str(found.word))
        return {"gpu_use": msgspec.to_builtins(found)}

    def wait_for_room(self, beat: Callable[[], None]) -> None:
        """Wait while memory is short, beating; NoMemory when its deadline has passed in vain."""
        while not self.admits:
            if self._overdue:
                raise NoMemory("memory pressure did not fall in time", "a fresh worker tries again")
            beat()
            self._sleep(WAIT_S)

    def learn(self, watch: StageWatch, *, oom: bool = False) -> None:
        """Keep what a planned run took (or that it ran out), on disk before anything follows."""
        watch.add(self._read())  # as it is now: a short stage may end between two samples
        run = watch.observation(self._clock(), oom=oom)
        if watch.key is not None and run is not None:
            self.planner.observe(watch.key, run)

    # --- telling

    def note(
        self, event: str, text: str, job: int | None = None, *, loud: bool = False, **facts: Any
    ) -> None:
        """A line for the log and file_monitor."""
        self._say(Note(event=event, text=text, job=job, warning=loud, facts=facts))

    def status(self) -> dict[str, Any]:
        """What the status file and `penstock memory` show."""
        with self._lock:
            reading = self._reading
            return {
                "profile": self.profile.name,
                "budget": self._budget,
                "capacity": self.capacity(),
                "reserved": self.planner.reserved,
                "card": {"tier": str(self._card.tier), "share": self._shares()[0]},
                "host": {"tier": str(self._host.tier), "share": self._shares()[1]},
                "reading": msgspec.to_builtins(reading),
                "shelf": [msgspec.to_builtins(row) for row in self.shelf.describe()],
                "files": self._files,
                "alone": self._card.batch(2) < 2 or self._host.batch(2) < 2,
                "line": lines.card_line(reading),
            }

    def _shares(self) -> tuple[float | None, float | None]:
        """Pressure of card and host, 0 to 1, without what a running stage was promised.

        A plan may fill the card; only what nobody planned for is pressure.
        """
        reading, promised = self._reading, self.planner.reserved
        card = share(reading, self._budget, self._reserve())
        room = self.capacity()
        if card is not None and room and reading.own is not None:
            return min(card, max(0, reading.own - promised) / room), host_share(reading)
        host = host_share(reading)
        if host is not None and reading.host_own is not None and reading.host_free is not None:
            whole = reading.host_own + reading.host_free
            host = min(host, max(0, reading.host_own - promised) / max(1, whole))
        return card, host


def limits_of(settings: MemorySettings) -> tuple[Limits, Limits]:
    """The tiers of card and host as the config has them."""
    card = Limits(
        standard=settings.standard, aggressive=settings.aggressive,
        emergency=settings.emergency, pause_seconds=settings.pause_seconds,
    )  # fmt: skip
    host = msgspec.structs.replace(
        HOST_LIMITS, standard=settings.host_standard, aggressive=settings.host_aggressive,
        emergency=settings.host_emergency, pause_seconds=settings.pause_seconds,
    )  # fmt: skip
    return card, host


def _cores() -> int:
    return len(os.sched_getaffinity(0))
