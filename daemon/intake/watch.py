"""One thread for each watch: does every look at its folder and posts what it found.

A thread of its own, so that a hung share blocks nobody else. Scans are the truth; events and the
service only ask for the next one to come sooner. A folder that is not where it was is offline:
nothing counts as deleted, nothing as new, and it comes back by itself.
"""

import threading
import time
from collections.abc import Callable, Sequence

from daemon.intake import look
from daemon.intake.bell import SCAN_SECONDS, Bell, Hearing
from daemon.intake.findings import Event, Mode, Offline, Online, Probed, Scan, Scanned
from daemon.intake.mounts import Place, find_place, outage, replaced
from daemon.settings import WatchSettings
from daemon.values import Sighting
from pipeline.core.errors import Transient

__all__ = ["Bell", "Event", "Offline", "Online", "Probed", "Scanned", "Watcher"]

EVENTS_SECONDS = 60.0  # between scans where events wake us
LEAST_GAP = 0.5  # seconds between scans, however often we are woken
REST_FACTOR = 5.0  # a scan that took long is given this many times as long to rest
TURN_SECONDS = 5.0  # the loop turns at least this often, so that `alive_at` means something
PROBE_SECONDS = 1.0  # of probing at a stretch, before the next scan gets its chance


class Watcher:
    """Looks at one watched folder in a thread of its own."""

    def __init__(
        self,
        settings: WatchSettings,
        takes: frozenset[bytes],
        post: Callable[[Event], None],
        *,
        pin: str = "",
        bell: Bell | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`pin` is what Online said in an earlier run; without a bell there are only scans."""
        self.alive_at = clock()  # monotonic seconds of the loop's last turn
        self._settings = settings
        self._takes = takes
        self._post = post
        self._pin = pin
        self._clock = clock
        self._hearing = Hearing(self, None if settings.only is not None else bell, clock)
        self._thread = threading.Thread(
            target=self._run, name=f"watch-{settings.name}", daemon=True
        )
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # guards the three that follow
        self._wanted = False
        self._probes: dict[bytes, None] = {}
        self._moved: set[bytes] = set()
        # From here on only the thread's own.
        self._known: dict[bytes, Sighting] = {}
        self._online: tuple[str, bool, Mode] | None = None
        self._offline = ""
        self._first = True
        self._next_scan = float("-inf")
        self._rested_at = float("-inf")

    def start(self) -> None:
        """Start the thread; the first scan follows at once."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """False before the start and after the end of the thread."""
        return self._thread.is_alive()

    def look(self) -> None:
        """Ask for a scan soon; many calls make one scan."""
        with self._lock:
            self._wanted = True
        self._wake.set()

    def probe(self, names: Sequence[bytes]) -> None:
        """Ask for a close look at these files; each is answered once, when the folder is there."""
        with self._lock:
            self._probes.update(dict.fromkeys(names))
        self._wake.set()

    def forget(self, names: Sequence[bytes]) -> None:
        """Say that these files were moved away by ourselves and are not to be reported."""
        with self._lock:
            self._moved.update(names)

    def stop(self, timeout: float) -> bool:
        """End the thread; False if it hangs (on a dead share) after `timeout` seconds."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._turn()
                self._wake.wait(max(0.0, self._pause()))
                self._wake.clear()
        finally:
            self._hearing.end()

    def _turn(self) -> None:
        self._breathe()
        if self._due():
            self._scan()
        self._answer_probes()

    def _breathe(self) -> None:
        self.alive_at = self._clock()

    def _due(self) -> bool:
        now = self._clock()
        with self._lock:
            if now < self._next_scan and not (self._wanted and now >= self._rested_at):
                return False
            self._wanted = False
        return True

    def _pause(self) -> float:
        """Seconds until there is something to do."""
        now = self._clock()
        with self._lock:
            if self._probes and self._online is not None:
                return 0.0
            due = min(self._next_scan, self._rested_at) if self._wanted else self._next_scan
        return min(due - now, TURN_SECONDS)

    def _interval(self) -> float:
        hears = self._hearing.mode == "events"
        return self._settings.scan_seconds or (EVENTS_SECONDS if hears else SCAN_SECONDS)

    def _scan(self) -> None:
        started = self._clock()
        try:
            place = self._find()
            self._hearing.listen(place)
            found = look.scan(
                place.real,
                local=place.local,
                takes=self._takes,
                only=self._settings.only,
                turn=self._breathe,
            )
            # A share that went away during the walk has left an empty folder to be seen.
            if self._find() != place:
                self.look()
                return
        except Transient as error:
            self._go_offline(error)
        except OSError as error:
            self._go_offline(outage(self._settings.path, error))
        else:
            self._hearing.check(found.folders)
            self._come_online(place)
            self._report(found, started)
        finally:
            self._plan_next(started)

    def _plan_next(self, started: float) -> None:
        ended = self._clock()
        took = ended - started
        self._next_scan = max(started + self._interval(), ended + took)
        self._rested_at = ended + max(LEAST_GAP, REST_FACTOR * took)

    def _find(self) -> Place:
        """Where the folder is; raises Transient if that is not where it should be."""
        place = find_place(self._settings.path, require_mount=self._settings.require_mount)
        if reason := replaced(self._pin, place.mount):
            raise Transient(reason)
        return place

    def _go_offline(self, error: Transient) -> None:
        self._online = None
        self._hearing.end()
        reason = str(error)
        if reason != self._offline:
            self._post(Offline(watch=self._settings.name, reason=reason))
        self._offline = reason

    def _come_online(self, place: Place) -> None:
        self._pin = place.mount.pin
        state = (self._pin, place.local, self._hearing.mode)
        if state != self._online:
            self._post(
                Online(
                    watch=self._settings.name,
                    pin=self._pin,
                    local=place.local,
                    mode=self._hearing.mode,
                )
            )
        self._online = state
        self._offline = ""

    def _report(self, found: Scan, started: float) -> None:
        with self._lock:
            moved, self._moved = self._moved, set()
        before = self._known
        for name in moved:
            before.pop(name, None)
        now = {sighting.name: sighting for sighting in found.sightings}
        missing = [name for name in before if name not in now]
        unknown = {name for name in missing if _below_any(name, found.unread)}
        self._known = now | {name: before[name] for name in unknown}
        event = Scanned(
            watch=self._settings.name,
            at=started,
            changed=tuple(one for one in found.sightings if before.get(one.name) != one),
            vanished=tuple(name for name in missing if name not in unknown),
            total=len(now),
            skips=tuple(found.skips),
            skipped=found.skipped,
            seconds=self._clock() - started,
            first=self._first,
        )
        self._first = False
        self._post(event)

    def _answer_probes(self) -> None:
        """Answer what was asked, for a while; what the folder's absence hides stays asked."""
        if self._online is None or not self._probes:
            return
        began = self._clock()
        try:
            place = self._find()
            while not self._stopping.is_set() and self._clock() - began < PROBE_SECONDS:
                with self._lock:
                    name = next(iter(self._probes), None)
                if name is None or not self._answer(place, name):
                    return
        except Transient as error:
            self._go_offline(error)
            self._plan_next(began)

    def _answer(self, place: Place, name: bytes) -> bool:
        """Answer one probe; False if the folder moved meanwhile, so that nothing can be said."""
        self._breathe()
        found = look.probe(place.real, name, local=place.local, at=self._clock())
        if found.sighting is None and self._find() != place:
            self.look()
            return False
        with self._lock:
            self._probes.pop(name, None)
        self._post(Probed(watch=self._settings.name, name=name, probe=found))
        return True


def _below_any(name: bytes, folders: tuple[bytes, ...]) -> bool:
    return any(name.startswith(folder + b"/") for folder in folders)
