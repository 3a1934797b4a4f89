"""From a sighting to an admitted job: trackers, probes, tickets, the bounded window."""

import heapq
import logging
import os
from contextlib import suppress
from typing import Any

import msgspec

from daemon.desk import Desk, Room, pin_key
from daemon.intake.settle import (
    Broken,
    Pace,
    Rules,
    Settled,
    Tracker,
    Vanished,
    Waiting,
    judge,
    learn,
    seen,
    window,
)
from daemon.intake.watch import Offline, Online, Probed, Scanned
from daemon.publish.originals import find_ticket
from daemon.queue.schedule import Candidate, next_admissions
from daemon.tickets import Ticket, read_ticket
from daemon.values import NewJob, Sighting, State
from daemon.walk import Walk
from pipeline.core.contract import Fault
from pipeline.core.errors import BadInput, NoSpace
from pipeline.core.text import shown

log = logging.getLogger("penstock.intake")

TICKET_BYTES = 64 * 1024 + 1
LONG_LINE = 500  # waiting files; beyond it places are filled several at a time


class Waiting_(msgspec.Struct, frozen=True, kw_only=True):  # noqa: N801  # Waiting is settle's word
    """A settled file with no place in the queue yet."""

    candidate: Candidate
    new: NewJob


class Arrivals:
    """Keeps one tracker for each file that is not admitted yet. Called on the loop only."""

    def __init__(self, desk: Desk, walk: Walk) -> None:
        self._desk = desk
        self._walk = walk
        self.trackers: dict[tuple[str, bytes], Tracker] = {}
        self.waiting: dict[tuple[str, bytes], Waiting_] = {}
        self._paces: dict[str, Pace] = {}
        self._settled_at: dict[int, float] = {}  # of open jobs, monotonic
        self._stayed: dict[str, dict[bytes, str]] = {}
        self._probes: list[tuple[float, str, bytes]] = []  # heap: when, watch, name
        self._asked: set[tuple[str, bytes]] = set()  # probes and tickets under way
        self._arrival = 0
        self._arrivals: dict[tuple[str, bytes], int] = {}  # of tracked files, in order of sight
        self._served: dict[str, int] = {}
        self._turn = 0

    # --- what the watchers say

    def online(self, event: Online) -> None:
        """A watch is there (again)."""
        room = self._desk.rooms.get(event.watch)
        if room is None:
            return
        back = not room.online and room.scanned
        room.online, room.reason = True, ""
        room.mode, room.local = event.mode, event.local
        self._desk.problems.pop(f"watch {event.watch}", None)
        self._desk.ledger.remember(pin_key(room.settings), event.pin)
        if back:
            log.info("watch %s is back online", event.watch)
            self._desk.tell("online", watch=event.watch)

    def offline(self, event: Offline) -> None:
        """A watch is away: nothing in it counts as deleted or new."""
        room = self._desk.rooms.get(event.watch)
        if room is None:
            return
        if room.online or not room.scanned:
            log.warning("watch %s is offline: %s", event.watch, event.reason)
            self._desk.tell("offline", watch=event.watch, reason=event.reason)
        room.online, room.looked, room.reason = False, True, event.reason
        self._desk.problems[f"watch {event.watch}"] = f"watch {event.watch}: {event.reason}"

    def scanned(self, event: Scanned) -> None:
        """A full look at a watch: what is new or changed, and what is gone."""
        room = self._desk.rooms.get(event.watch)
        if room is None:
            return
        room.scanned = room.looked = True
        room.last_scan_wall = self._desk.wall()
        room.files, room.skipped = event.total, event.skipped
        if event.watch not in self._stayed:
            self._stayed[event.watch] = self._desk.ledger.stayed(event.watch)
        for sighting in event.changed:
            self._sighted(event.watch, room, sighting, event.at)
        for name in event.vanished:
            self._vanished(event.watch, name)

    def _sighted(self, watch: str, room: Room, sighting: Sighting, at: float) -> None:
        key = (watch, sighting.name)
        job = self._desk.open_job(watch, sighting.name)
        if job is not None:
            if job.mark == sighting.mark or job.state in (State.PUBLISHED, State.FAILING):
                return
            silence = at - self._settled_at.get(job.id, at)
            if not self._walk.supersede(job):
                return
            self._learn(watch, learn(self._pace(watch), silence))
        if self._stayed[watch].get(sighting.name) == sighting.mark:
            return
        self._stayed[watch].pop(sighting.name, None)
        if self.waiting.get(key) and self.waiting[key].new.sighting.mark == sighting.mark:
            return
        self.waiting.pop(key, None)
        old = self.trackers.get(key)
        tracker, pace = seen(old, sighting, at, self._rules(room), self._pace(watch))
        self._learn(watch, pace)
        if old is None:
            self._arrival += 1
            self._arrivals.setdefault(key, self._arrival)
            self._desk.tell_file("seen", watch, sighting)
        self._track(key, tracker)

    def _vanished(self, watch: str, name: bytes) -> None:
        self.trackers.pop((watch, name), None)
        self._arrivals.pop((watch, name), None)
        self.waiting.pop((watch, name), None)
        self._stayed[watch].pop(name, None)
        job = self._desk.open_job(watch, name)
        if job is not None:
            self._walk.gone_from_inbox(job)

    # --- probing

    def _track(self, key: tuple[str, bytes], tracker: Tracker) -> None:
        self.trackers[key] = tracker
        heapq.heappush(self._probes, (tracker.probe_at, *key))

    def next_probe(self) -> float | None:
        """When the next probe is due."""
        return self._probes[0][0] if self._probes else None

    def ask(self, now: float) -> None:
        """Hand every probe that is due to its watcher."""
        due: dict[str, list[bytes]] = {}
        while self._probes and self._probes[0][0] <= now:
            when, watch, name = heapq.heappop(self._probes)
            tracker = self.trackers.get((watch, name))
            if tracker is None or tracker.probe_at != when or (watch, name) in self._asked:
                continue
            self._asked.add((watch, name))
            due.setdefault(watch, []).append(name)
        for watch, names in due.items():
            if watch in self._desk.rooms:
                self._desk.rooms[watch].watcher.probe(names)

    def probed(self, event: Probed) -> None:
        """A close look at one file came back."""
        key = (event.watch, event.name)
        self._asked.discard(key)
        tracker, room = self.trackers.get(key), self._desk.rooms.get(event.watch)
        if tracker is None or room is None:
            return
        verdict = judge(
            tracker, event.probe, self._desk.clock(), self._rules(room), self._pace(event.watch)
        )
        match verdict:
            case Waiting():
                self._learn(event.watch, verdict.pace)
                self._track(key, verdict.tracker)
            case Vanished():
                del self.trackers[key]
                self._arrivals.pop(key, None)
            case Broken():
                del self.trackers[key]
                self._settled(event.watch, room, verdict.sighting, verdict.reason, verdict.hint)
            case Settled():
                del self.trackers[key]
                self._desk.tell_file("settled", event.watch, verdict.sighting)
                self._settled(event.watch, room, verdict.sighting)

    def _settled(
        self, watch: str, room: Room, sighting: Sighting, reason: str = "", hint: str = ""
    ) -> None:
        """Read the ticket, on the share's own thread, then line up."""
        settings = room.settings
        key = (watch, sighting.name)
        self._asked.add(key)
        source = os.path.join(settings.path, sighting.name)

        def read() -> bytes | None:
            path = find_ticket(source)
            if path is None:
                return None
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                return file.read(TICKET_BYTES)

        def then(data: Any, error: Exception | None) -> None:
            self._asked.discard(key)
            if error is not None:
                log.warning("the ticket of %s can not be read: %s", shown(sighting.name), error)
            self._line_up(watch, room, sighting, data, reason, hint)

        self._desk.hands.do(watch, read, then)

    def _line_up(
        self, watch: str, room: Room, sighting: Sighting, data: bytes | None, reason: str, hint: str
    ) -> None:
        settings = room.settings
        fault = Fault.BAD_INPUT if reason else None
        ticket = Ticket(priority=None, options=settings.options)
        if data is not None:
            try:
                ticket = read_ticket(data, settings.recipe, settings.options)
            except BadInput as error:
                fault, reason, hint = Fault.BAD_INPUT, error.reason, error.hint
        priority = settings.priority if ticket.priority is None else ticket.priority
        arrival = self._arrivals.pop((watch, sighting.name), self._arrival)
        new = NewJob(
            watch=watch, root=settings.path, sighting=sighting, recipe=settings.recipe,
            options=ticket.options, priority=priority, fault=fault, reason=reason, hint=hint,
        )  # fmt: skip
        candidate = Candidate(
            watch=watch, name=sighting.name, priority=priority, settled_at=arrival
        )
        self.waiting[watch, sighting.name] = Waiting_(candidate=candidate, new=new)

    # --- admission

    def admit(self) -> None:
        """Fill the free places of the queue, fairly; what does not fit waits where it lies."""
        size = self._desk.settings.queue.size
        places = size - len(self._desk.jobs)
        if places <= 0 or not self.waiting:
            return
        if len(self.waiting) > LONG_LINE and places < size // 4:
            return  # sorting a long line for each single place would cost more than it brings
        candidates = [entry.candidate for entry in self.waiting.values()]
        chosen = next_admissions(candidates, places, self._served)
        entries = [self.waiting[candidate.watch, candidate.name] for candidate in chosen]
        jobs = self._desk.admit([entry.new for entry in entries])
        for candidate in chosen:
            self.waiting.pop((candidate.watch, candidate.name), None)
            self._turn += 1
            self._served[candidate.watch] = self._turn
        for job in jobs:
            self._settled_at[job.id] = self._desk.clock()
            self._walk.admitted(job)

    def stays(self, watch: str, name: bytes, mark: str | None) -> None:
        """An ended visit left its file in the inbox (or, with None, it may be taken again)."""
        for number in self._settled_at.keys() - self._desk.jobs.keys():
            del self._settled_at[number]
        marks = self._stayed.setdefault(watch, {})
        if mark is None:
            marks.pop(name, None)
        else:
            marks[name] = mark

    def forget(self, watch: str) -> None:
        """A watch left the config: its files are no longer waited for."""
        for table in (self.trackers, self.waiting, self._arrivals):
            for key in [key for key in table if key[0] == watch]:
                del table[key]
        self._stayed.pop(watch, None)

    # --- for status and why

    def settling(self, watch: str) -> int:
        """How many files of a watch are not settled yet."""
        return sum(1 for owner, _name in self.trackers if owner == watch)

    def outside(self, watch: str) -> int:
        """How many settled files of a watch have no place in the queue."""
        return sum(1 for owner, _name in self.waiting if owner == watch)

    def stayed(self, watch: str, name: bytes) -> bool:
        """Whether these bytes were handled and left in place."""
        return name in self._stayed.get(watch, {})

    @property
    def idle(self) -> bool:
        """Whether every online watch was scanned and no file waits to be admitted."""
        rooms = self._desk.rooms.values()
        return (
            not self.trackers
            and not self.waiting
            and not self._asked
            and all(room.scanned or not room.online for room in rooms)
        )

    def window_of(self, room: Room) -> float:
        """The quiet time that a file of this watch has to show now, in seconds."""
        return window(self._rules(room), self._pace(room.settings.name))

    def _rules(self, room: Room) -> Rules:
        return Rules(
            settle_seconds=room.settings.settle_seconds,
            incomplete_seconds=room.settings.incomplete_seconds,
            local=room.local,
        )

    def _pace(self, watch: str) -> Pace:
        if watch not in self._paces:
            known = self._desk.ledger.recall(f"pace {watch}")
            self._paces[watch] = Pace(longest_pause=float(known or 0.0))
        return self._paces[watch]

    def _learn(self, watch: str, pace: Pace) -> None:
        if pace != self._paces[watch]:
            self._paces[watch] = pace
            with suppress(NoSpace):  # it is known until the restart
                self._desk.ledger.remember(f"pace {watch}", str(pace.longest_pause))
            log.info(
                "watch %s: files pause up to %.1f s while they arrive", watch, pace.longest_pause
            )
