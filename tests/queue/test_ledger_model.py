"""The ledger beside a model of plain dicts: whatever is called in whatever order, they agree."""

import os
import shutil
import tempfile
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from daemon.queue.ledger import MAY_STAY, Ledger
from daemon.queue.reader import Reader
from daemon.queue.rows import NameTaken
from daemon.values import ENDED, MOVES, OPEN, Job, State
from pipeline.core.contract import Fault
from tests.queue.util import NOW, new, place

NAMES = st.sampled_from([b"a.wav", b"b\xff.mp4", b"\n", b"sub/c.txt"])
WATCHES = st.sampled_from(["talks", "films"])
FILES = st.tuples(NAMES, WATCHES, st.integers(0, 2), st.sampled_from([None, Fault.BAD_INPUT]))
TARGETS = st.sampled_from([b"", b"talk", b"talk (2)", b"\xff"])


class Agreement(RuleBasedStateMachine):
    """Jobs by number, events by number, and which jobs stay."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = os.fsencode(tempfile.mkdtemp())
        self.jobs: dict[int, Job] = {}
        self.events: dict[int, list[tuple[str, State]]] = {}
        self.stays: set[int] = set()
        self.memo: dict[str, str] = {}
        self.now = NOW
        self.ledger = Ledger.open(place(self.folder), NOW)
        self.uid = self.ledger.uid

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.folder)

    def _tick(self) -> float:
        self.now += 1.0
        return self.now

    @initialize()
    def one_job(self) -> None:
        self.admit([(b"a.wav", "talks", 1, None)])

    @rule(files=st.lists(FILES, max_size=5))
    def admit(self, files: list[tuple[bytes, str, int, Fault | None]]) -> None:
        now = self._tick()
        open_names = {(job.watch, job.name) for job in self.jobs.values() if job.state in OPEN}
        wanted = []
        for name, watch, size, fault in files:
            if (watch, name) not in open_names:
                open_names.add((watch, name))
                wanted.append((name, watch, size, fault))
        made = self.ledger.admit([new(n, w, size=s, fault=f) for n, w, s, f in files], now)
        assert [(j.name, j.watch, j.sighting.size, j.fault) for j in made] == wanted
        for job in made:
            assert job.id not in self.events
            self.jobs[job.id] = job
            self.events[job.id] = [("admitted", job.state)]
            same = (job.watch, job.name)
            self.stays = {n for n in self.stays if (self.jobs[n].watch, self.jobs[n].name) != same}

    @precondition(lambda self: any(job.state in OPEN for job in self.jobs.values()))
    @rule(data=st.data(), stays=st.booleans(), name=TARGETS)
    def move(self, data: st.DataObject, stays: bool, name: bytes) -> None:
        now, target = self._tick(), name
        job = data.draw(st.sampled_from([job for job in self.jobs.values() if job.state in OPEN]))
        to = data.draw(st.sampled_from(sorted(MOVES[job.state])))
        taken = {
            (other.watch, other.target)
            for other in self.jobs.values()
            if other.state in (State.STAGED, State.PUBLISHED) and other.target and other != job
        }
        try:
            moved = self.ledger.move(
                job, to, now, attempt=job.attempt + 1, target=target, stays=stays
            )
        except NameTaken:
            assert (job.watch, target) in taken
            assert to in (State.STAGED, State.PUBLISHED)
            return
        assert (job.watch, target) not in taken or to not in (State.STAGED, State.PUBLISHED)
        assert (moved.state, moved.attempt, moved.target) == (to, job.attempt + 1, target)
        self.jobs[job.id] = moved
        self.events[job.id].append((to.value, to))
        if stays and to in MAY_STAY:
            self.stays.add(job.id)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), kills=st.integers(0, 3), reason=st.text(max_size=5))
    def update(self, data: st.DataObject, kills: int, reason: str) -> None:
        job = data.draw(st.sampled_from(list(self.jobs.values())))
        held = self.ledger.update(job, self._tick(), event="seen", kills=kills, reason=reason)
        assert (held.kills, held.reason, held.state) == (kills, reason, job.state)
        self.jobs[job.id] = held
        self.events[job.id].append(("seen", job.state))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def note(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(list(self.jobs.values())))
        self.ledger.note(job.id, "beat", self._tick())
        self.events[job.id].append(("beat", job.state))

    @rule(watch=WATCHES, name=NAMES)
    def forget_stay(self, watch: str, name: bytes) -> None:
        self.ledger.forget_stay(watch, name)
        gone = (watch, name)
        self.stays = {n for n in self.stays if (self.jobs[n].watch, self.jobs[n].name) != gone}

    @rule(key=st.sampled_from("ab"), value=st.text(max_size=3))
    def remember(self, key: str, value: str) -> None:
        self.ledger.remember(key, value)
        self.memo[key] = value

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = Ledger.open(place(self.folder), self.now)
        assert self.ledger.uid == self.uid

    @rule()
    def prune(self) -> None:
        before = self._tick()
        while self.ledger.prune(before):
            pass
        self.events = {number: [] for number in self.events}
        ended = [n for n, job in self.jobs.items() if job.state in ENDED and n not in self.stays]
        for number in ended:
            del self.jobs[number]

    @invariant()
    def they_agree(self) -> None:
        still_open = [job for job in self.jobs.values() if job.state in OPEN]
        assert self.ledger.open_jobs() == still_open
        counts = dict.fromkeys(State, 0)
        for job in self.jobs.values():
            counts[job.state] += 1
        assert self.ledger.counts() == counts
        newest = sorted(self.jobs.values(), key=lambda job: (job.updated_at, job.id), reverse=True)
        assert self.ledger.recent(4) == [job for job in newest if job.state in ENDED][:4]
        for watch in ("talks", "films"):
            held: dict[bytes, Any] = {
                self.jobs[n].name: self.jobs[n].mark
                for n in self.stays
                if self.jobs[n].watch == watch
            }
            assert self.ledger.stayed(watch) == held
        for number, job in self.jobs.items():
            assert self.ledger.job(number) == job
            told = [(event.event, event.state) for event in self.ledger.history(number)]
            assert told == self.events[number]
        for key, value in self.memo.items():
            assert self.ledger.recall(key) == value

    @rule()
    def a_reader_agrees(self) -> None:
        with Reader(place(self.folder)) as reader:
            newest = sorted(
                self.jobs.values(), key=lambda job: (job.updated_at, job.id), reverse=True
            )
            assert reader.jobs(limit=1000) == newest


TestAgreement = Agreement.TestCase
TestAgreement.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
