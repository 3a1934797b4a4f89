"""Rings a watch when something happened below its folder: a wake-up only, never the truth.

watchdog loses events without a word: on overflow, at the kernel's watch limit, after an unmount,
when the root is made anew. So nothing is taken from an event but the hint to look, and the bell is
asked after each scan whether it can still hear.
"""

import errno
import logging
import os
import threading
import warnings
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Protocol, cast

from daemon.intake.findings import Mode
from daemon.intake.ignore import why_ignored
from daemon.intake.mounts import Place
from pipeline.core.text import shown

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers.api import ObservedWatch
    from watchdog.observers.inotify import InotifyObserver

log = logging.getLogger(__name__)

SCAN_SECONDS = 5.0  # between scans where no events wake us
RETRY_EVENTS = 600.0  # seconds until events are tried again after they could not be had
LIBRARY_LOG = "watchdog.observers.inotify_c"
FAREWELL_LOG = "watchdog.observers.inotify"
FAREWELL = "called when the thread is inactive"  # a read that its own end cut short
FDINFO = "/proc/self/fdinfo"
_JOIN = 2.0  # seconds


logging.getLogger(FAREWELL_LOG).addFilter(lambda record: FAREWELL not in record.getMessage())


class Rung(Hashable, Protocol):
    """Who can be woken."""

    def look(self) -> None:
        """Look soon; must return at once and never raise."""


class Bell:
    """One inotify observer for all watches, started when the first one needs it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._observer: InotifyObserver | None = None
        self._watches: dict[Rung, ObservedWatch] = {}
        self._folders: dict[Rung, int] = {}
        self._overflow = _Overflow(self)

    def attach(self, who: Rung, root: bytes) -> None:
        """Ring `who` for every change below root (a path without links).

        Raises OSError where inotify can not be had: ENOSPC for the watch limit, EMFILE for the
        instance limit.
        """
        self.detach(who)
        with self._lock:
            observer = self._started()
            self._watches[who] = observer.schedule(
                cast("FileSystemEventHandler", _Ear(who, root)),
                os.fsdecode(root),
                recursive=True,
                event_filter=_event_filter(),
            )

    def detach(self, who: Rung) -> None:
        """Ring `who` no more; nothing happens if it was not attached."""
        with self._lock:
            watch = self._watches.pop(who, None)
            self._folders.pop(who, None)
            if watch is not None and self._observer is not None:
                self._observer.unschedule(watch)

    def alive(self, who: Rung) -> bool:
        """Whether `who` is attached and its observer still runs."""
        with self._lock:
            watch = self._watches.get(who)
            if watch is None or self._observer is None or not _sound(self._observer):
                return False
            mine = [one for one in self._observer.emitters if one.watch == watch]
            return any(one.is_alive() and one.should_keep_running() for one in mine)

    def deaf(self, who: Rung, folders: int) -> str:
        """Why not every folder is heard, "" if all are; `folders` is how many a scan read."""
        with self._lock:
            self._folders[who] = folders
            wanted = sum(self._folders.values())
            if len(self._folders) < len(self._watches):
                return ""  # others have not counted theirs yet
        had = inotify_watches()
        if had >= wanted:
            return ""
        return f"only {had} of {wanted} folders are watched; raise fs.inotify.max_user_watches"

    def ring_all(self) -> None:
        """Wake everybody: events were lost."""
        with self._lock:
            everybody = list(self._watches)
        for who in everybody:
            who.look()

    def stop(self) -> None:
        """End the observer and its threads."""
        with self._lock:
            observer, self._observer = self._observer, None
            self._watches.clear()
            self._folders.clear()
            logging.getLogger(LIBRARY_LOG).removeHandler(self._overflow)
        if observer is not None:
            observer.stop()
            observer.join(_JOIN)

    def _started(self) -> "InotifyObserver":
        if self._observer is not None and not _sound(self._observer):
            self._observer.stop()
            self._observer = None
            self.ring_all()  # so that all the others find out and attach anew
            self._watches.clear()
        if self._observer is None:
            # Imported here: half of the daemon's commands never watch anything.
            from watchdog.observers.inotify import InotifyObserver

            # A folder may be reported twice while it is being made; the library warns of that,
            # and its thread would end if warnings were errors.
            warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)
            self._observer = InotifyObserver()
            self._observer.start()
            logging.getLogger(LIBRARY_LOG).addHandler(self._overflow)
        return self._observer


def _sound(observer: "InotifyObserver") -> bool:
    """Whether both of the observer's threads run: an error in the one leaves the other waiting."""
    reader = getattr(observer, "_inotify_fd", observer)  # private, so it may go away
    return observer.is_alive() and reader.is_alive()


def _event_filter() -> "list[type[FileSystemEvent]]":
    from watchdog import events

    # Not "modified": copying 1 GB would bring 15,000 of them and cost a third of a core, and
    # probes see growth anyway. Not "folder modified": our own receipts would wake us.
    return [
        events.FileCreatedEvent,
        events.FileMovedEvent,
        events.FileClosedEvent,
        events.FileDeletedEvent,
        events.DirCreatedEvent,
        events.DirMovedEvent,
        events.DirDeletedEvent,
    ]


class _Ear:
    """What the observer calls; all that it does is ring."""

    def __init__(self, who: Rung, root: bytes) -> None:
        self._who = who
        self._root = root

    def dispatch(self, event: Any) -> None:
        """Ring unless every path of the event is an ignored one."""
        paths = (event.dest_path, event.src_path)
        if any(path and self._matters(os.fsencode(path)) for path in paths):
            self._who.look()

    def _matters(self, path: bytes) -> bool:
        if path == self._root:
            return True
        parts = path.removeprefix(self._root).strip(b"/").split(b"/")
        return not any(why_ignored(part) for part in parts)


class _Overflow(logging.Handler):
    """The library tells of lost events only in its log."""

    def __init__(self, bell: Bell) -> None:
        super().__init__(logging.WARNING)
        self._bell = bell

    def emit(self, record: logging.LogRecord) -> None:
        """Wake everybody if the record says that events were lost."""
        if "overflow" in record.getMessage():
            self._bell.ring_all()


def inotify_watches() -> int:
    """How many inotify watches this process holds, as the kernel counts them."""
    count = 0
    for fd in os.listdir(FDINFO):
        try:
            with open(f"{FDINFO}/{fd}", encoding="ascii", errors="replace") as file:
                count += sum(line.startswith("inotify wd:") for line in file)
        except OSError:  # closed meanwhile
            continue
    return count


def describe(root: bytes, error: OSError) -> str:
    """Why no events can be had, in plain words."""
    limits = {
        errno.ENOSPC: "fs.inotify.max_user_watches",
        errno.EMFILE: "fs.inotify.max_user_instances",
    }
    hint = limits.get(error.errno or 0)
    text = f"no inotify events for {shown(root)}: {error.strerror}"
    return f"{text}; raise {hint}" if hint else text


class Hearing:
    """How a watcher hears of changes: by its bell where that works, else only by scans."""

    def __init__(self, who: Rung, bell: Bell | None, clock: Callable[[], float]) -> None:
        self.mode: Mode = "scan"
        self._who = who
        self._bell = bell
        self._clock = clock
        self._place: Place | None = None  # what the bell is attached to
        self._short = 0  # checks in a row that found it deaf
        self._told = False  # that events can not be had
        self._not_before = float("-inf")

    def listen(self, place: Place) -> None:
        """Attach the bell to where the folder lies now; anew if that changed or the bell ended."""
        if self._bell is None or (self._place == place and self._bell.alive(self._who)):
            return
        self.end()
        if not place.local or self._clock() < self._not_before:
            return
        try:
            self._bell.attach(self._who, place.real)
        except (FileNotFoundError, NotADirectoryError):
            return  # went away this moment: the scan that follows will say so
        except OSError as error:
            self._fall_back(describe(place.real, error))
            return
        self._place = place
        self.mode = "events"

    def check(self, folders: int) -> None:
        """After a scan: does the bell hear all of these folders?"""
        if self._bell is None or self._place is None:
            return
        reason = self._bell.deaf(self._who, folders)
        self._short = self._short + 1 if reason else 0
        self._told = self._told and bool(reason)
        # Once may be a folder that was made a moment ago.
        if reason and (self._short > 1 or self._told):
            self._fall_back(reason)
        elif reason:
            self._who.look()

    def end(self) -> None:
        """Stop listening."""
        if self._bell is not None and self._place is not None:
            self._bell.detach(self._who)
        self._place = None
        self._short = 0
        self.mode = "scan"

    def _fall_back(self, reason: str) -> None:
        level = logging.DEBUG if self._told else logging.WARNING
        log.log(level, "%s; scanning every %g s instead", reason, SCAN_SECONDS)
        self.end()
        self._told = True
        self._not_before = self._clock() + RETRY_EVENTS
