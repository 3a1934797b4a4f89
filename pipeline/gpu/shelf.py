"""The shelf of models: each is loaded once, leased to whoever needs it, dropped when room is short.

A lease keeps its model from being dropped. Whoever leased one must not keep it (in a variable that
lives on, a closure, a cache): what is still alive after it was dropped is named by `survivors`, and
only a fresh worker frees it.
"""

import gc
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, TypeVar

import msgspec

from pipeline.core.text import human_bytes, shown

log = logging.getLogger("penstock.memory")

T = TypeVar("T")


class Evicted(msgspec.Struct, frozen=True):
    """A model that was dropped and the bytes that it had been measured at."""

    name: str
    size: int


class ShelfRow(msgspec.Struct, frozen=True, kw_only=True):
    """One model on the shelf, for the status. Sizes in bytes, times in seconds."""

    name: str
    size: int
    leases: int
    load_seconds: float
    idle_seconds: float  # since the last lease began or ended
    state: str  # loading | ready | leaving


class _State(Enum):
    LOADING = "loading"
    READY = "ready"
    LEAVING = "leaving"


class _Place:
    """One model's place; every field is guarded by the shelf's condition."""

    def __init__(self, now: float) -> None:
        self.state = _State.LOADING
        self.model: Any = None
        self.unload: Callable[[Any], object] | None = None
        self.leases = 0
        self.size = 0
        self.load_seconds = 0.0
        self.used_at = now
        self.alone = True  # no other load ran meanwhile, so the measured bytes are its own

    def is_idle(self) -> bool:
        """True if it could be dropped now."""
        return self.state is _State.READY and self.leases == 0


class Shelf:
    """Models by name; every method may be called from any thread.

    `held` reads the bytes that this process holds now (None if unknown); `clock` is in seconds.
    """

    def __init__(
        self,
        held: Callable[[], int | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._held = held
        self._clock = clock
        self._changed = threading.Condition()
        self._places: dict[str, _Place] = {}
        self._gone: list[tuple[str, weakref.ref[Any]]] = []

    @contextmanager
    def lease(
        self,
        name: str,
        load: Callable[[], T],
        *,
        size: int = 0,
        unload: Callable[[T], object] | None = None,
    ) -> Iterator[T]:
        """The model of that name, loaded by `load` if it is not there; shared with other leases.

        `size` is what it is believed to take, in bytes, where that can not be measured. `unload`
        is called with it before it is dropped. Only a load of the same name makes a lease wait;
        what `load` raises passes through and leaves no trace.
        """
        place = self._taken(name)
        if place is None:
            place = self._loaded(name, load, size, unload)
        try:
            yield place.model
        finally:
            with self._changed:
                place.leases -= 1
                place.used_at = self._clock()
                self._changed.notify_all()

    def evict(self, bytes_needed: int) -> list[Evicted]:
        """Drop unleased models, least recently used first, until that many bytes are gone."""
        dropped: list[Evicted] = []
        for name in self.idle():
            if sum(gone.size for gone in dropped) >= bytes_needed:
                break
            dropped += self._drop(name)
        return dropped

    def evict_named(self, names: Iterable[str]) -> list[Evicted]:
        """Drop those of these models that are there and not leased."""
        return [gone for name in names for gone in self._drop(name)]

    def evict_all_unleased(self) -> list[Evicted]:
        """Drop every model that nobody has leased."""
        return self.evict_named(self.idle())

    def idle(self) -> dict[str, int]:
        """Unleased models and their bytes, least recently used first: what could be evicted."""
        with self._changed:
            found = [(name, place) for name, place in self._places.items() if place.is_idle()]
        found.sort(key=lambda entry: entry[1].used_at)
        return {name: place.size for name, place in found}

    def survivors(self) -> list[str]:
        """Models that were dropped and are still alive: this worker should be replaced."""
        gc.collect()
        with self._changed:
            self._gone = [(name, ref) for name, ref in self._gone if ref() is not None]
            return sorted({name for name, _ref in self._gone})

    def describe(self) -> list[ShelfRow]:
        """What is on the shelf, for the status."""
        now = self._clock()
        with self._changed:
            return [
                ShelfRow(
                    name=name,
                    size=place.size,
                    leases=place.leases,
                    load_seconds=place.load_seconds,
                    idle_seconds=max(0.0, now - place.used_at) if place.leases == 0 else 0.0,
                    state=place.state.value,
                )
                for name, place in self._places.items()
            ]

    def _taken(self, name: str) -> _Place | None:
        """The place with one lease more if its model is there; None: the caller is to load it."""
        with self._changed:
            while (place := self._places.get(name)) is not None:
                if place.state is _State.READY:
                    place.leases += 1
                    place.used_at = self._clock()
                    return place
                self._changed.wait()
            self._places[name] = _Place(self._clock())
            self._note_company()
            return None

    def _note_company(self) -> None:
        loading = [place for place in self._places.values() if place.state is _State.LOADING]
        if len(loading) > 1:
            for place in loading:
                place.alone = False

    def _loaded(
        self, name: str, load: Callable[[], T], size: int, unload: Callable[[T], object] | None
    ) -> _Place:
        started = self._clock()
        try:
            before = self._held()
            model = load()
            after = self._held()
        except BaseException:
            with self._changed:
                del self._places[name]
                self._changed.notify_all()
            raise
        with self._changed:
            place = self._places[name]
            measured = None if before is None or after is None else max(0, after - before)
            place.model, place.unload = model, unload
            place.size = measured if measured and (place.alone or not size) else size
            place.used_at = self._clock()
            place.load_seconds = place.used_at - started
            place.leases = 1
            place.state = _State.READY
            self._changed.notify_all()
        log.info("Model %s loaded in %.1f s, %s", name, place.load_seconds, human_bytes(place.size))
        return place

    def _drop(self, name: str) -> list[Evicted]:
        """Drop this model; nothing if it is gone or leased by now."""
        with self._changed:
            place = self._places.get(name)
            if place is None or not place.is_idle():
                return []
            place.state = _State.LEAVING  # a new lease of this name waits until the old is gone
        try:
            self._gone_later(name, place.model)
            if place.unload is not None:
                place.unload(place.model)
        except Exception as error:  # noqa: BLE001  # a library's unload may raise anything
            # Text only: a log record that held the error would keep the model alive.
            said = shown(f"{type(error).__name__}: {error}")
            log.warning("Model %s: its unload failed: %s", name, said)
        finally:
            place.model = place.unload = None
            with self._changed:
                del self._places[name]
                self._changed.notify_all()
        log.info("Model %s dropped, %s", name, human_bytes(place.size))
        return [Evicted(name, place.size)]

    def _gone_later(self, name: str, model: object) -> None:
        refs = [(name, ref) for part in _parts(model) if (ref := _weak(part)) is not None]
        with self._changed:
            self._gone += refs


def _parts(model: object) -> Iterable[object]:
    """The model, and with torch its modules: a kept encoder keeps its share of the card."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        return list(model.modules())
    return [model]


def _weak(thing: object) -> weakref.ref[Any] | None:
    try:
        return weakref.ref(thing)
    except TypeError:  # a type of C code without weak references: nothing can be said about it
        return None
