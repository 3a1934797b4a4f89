"""The watches: opened, changed by a reload, weighed and swept; each on a hand of its own."""

import logging
import os
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import msgspec

from daemon.arrivals import Arrivals
from daemon.config import make_watch_folders
from daemon.desk import Desk, Room, pin_key
from daemon.intake.bell import Bell
from daemon.intake.watch import Event, Watcher
from daemon.publish.janitor import sweep_parts, sweep_scratch, sweep_staging, tidy_shelf
from daemon.settings import Settings, WatchSettings
from daemon.walk import Walk
from pipeline.core.files import free_bytes
from pipeline.core.recipes import recipe_named

log = logging.getLogger("penstock")

SWEEP_AGE_S = 3600.0  # a younger temporary file in a shared archive may be another daemon's


class Roster:
    """Which folders are watched. Called on the loop only."""

    def __init__(
        self, desk: Desk, arrivals: Arrivals, walk: Walk, post: Callable[[Event], None]
    ) -> None:
        self._desk = desk
        self._arrivals = arrivals
        self._walk = walk
        self._post = post
        self._bell = Bell()

    def close(self, timeout: float) -> None:
        """End every watcher; one that hangs on a dead share is left behind."""
        for name, room in self._desk.rooms.items():
            room.watcher.stop(timeout)
            outbox = room.settings.outbox
            self._desk.hands.do(name, partial(tidy_shelf, outbox), lambda _done, _error: None)
        self._bell.stop()

    def watch(self, settings: WatchSettings) -> None:
        """Begin to watch a folder."""
        desk = self._desk
        watcher = Watcher(
            settings, recipe_named(settings.recipe).takes, self._post,
            bell=self._bell, pin=desk.ledger.recall(pin_key(settings)) or "",
        )  # fmt: skip
        desk.rooms[settings.name] = Room(settings=settings, watcher=watcher)
        desk.retired.pop(settings.name, None)
        desk.hands.do(settings.name, lambda: make_watch_folders(settings), _log_folders)
        watcher.start()

    def unwatch(self, name: str) -> None:
        """Watch a folder no longer; its open jobs go on with the settings it had."""
        room = self._desk.rooms.pop(name)
        self._desk.retired[name] = room.settings
        self._arrivals.forget(name)
        room.watcher.stop(0.0)

    def change_to(self, new: Settings) -> None:
        """Take over new settings, as far as that works without a restart."""
        desk = self._desk
        desk.problems.pop("config", None)
        if new.daemon.state_dir != desk.settings.daemon.state_dir:
            desk.problems["config"] = (
                "a new [daemon] state_dir needs a restart; the old one is used"
            )
            kept = msgspec.structs.replace(new.daemon, state_dir=desk.settings.daemon.state_dir)
            new = msgspec.structs.replace(new, daemon=kept)
        if new.worker != desk.settings.worker or new.gpu != desk.settings.gpu:
            desk.problems["config"] = "new [worker] or [gpu] settings need a restart"
            new = msgspec.structs.replace(new, worker=desk.settings.worker, gpu=desk.settings.gpu)
        wanted = {watch.name: watch for watch in new.watch}
        for name in [
            name for name, room in desk.rooms.items() if wanted.get(name) != room.settings
        ]:
            self.unwatch(name)
        desk.settings = new
        for watch in new.watch:
            if watch.name not in desk.rooms:
                self.watch(watch)
        for number in list(desk.jobs):
            self._walk.step(number)
        log.info("the config was read again: %d watches", len(desk.rooms))

    def weigh_disks(self) -> None:
        """Ask how much room the disks of each watch have; the answers come later."""
        for name, room in self._desk.rooms.items():
            if self._desk.hands.waiting(name) > 1:
                continue
            folders = (room.settings.outbox, self._desk.settings.daemon.state_dir)

            def weigh(folders: tuple[bytes, ...] = folders) -> int:
                return min(free_bytes(folder) for folder in folders)

            def then(free: Any, error: Exception | None, room: Room = room) -> None:
                room.free_bytes = None if error else free

            self._desk.hands.do(name, weigh, then)

    def sweep(self) -> None:
        """What an earlier daemon's death left behind, folder by folder on each watch's hand."""
        desk = self._desk
        keep = _OpenLabels(desk)
        sweep_scratch(desk.scratch_root(), keep)
        for watch in desk.settings.watch:
            stores = [folder for folder in (watch.archive, watch.failed) if folder]
            inboxes = {watch.path} | {
                os.path.dirname(job.source) for job in desk.jobs.values() if job.watch == watch.name
            }

            def clear(
                watch: WatchSettings = watch,
                stores: list[bytes] = stores,
                inboxes: set[bytes] = inboxes,
            ) -> None:
                sweep_staging(watch.outbox, desk.ledger.uid, keep)
                for folder in stores:
                    sweep_parts(folder, SWEEP_AGE_S, desk.wall())
                for folder in inboxes:  # only receipts are written there, and only by us
                    sweep_parts(folder, 0.0, desk.wall())

            desk.hands.do(watch.name, clear, _log_sweep)


class _OpenLabels(Collection[str]):
    """The labels of open jobs as they are when asked: a job may be admitted while a share is swept.

    Read on hands' threads; looking up one key of the loop's dict is a single step.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def __contains__(self, label: object) -> bool:
        return isinstance(label, str) and label.isdecimal() and int(label) in self._desk.jobs

    def __iter__(self) -> Iterator[str]:
        return iter([job.label for job in list(self._desk.jobs.values())])

    def __len__(self) -> int:
        return len(self._desk.jobs)


def _log_sweep(_result: Any, error: Exception | None) -> None:
    if error is not None:
        log.warning("some leftovers could not be swept: %s", error)


def _log_folders(problems: Any, error: Exception | None) -> None:
    for problem in problems or ():
        log.warning("%s", problem)
    if error is not None:
        log.warning("a watch's folders could not be made: %s", error)
