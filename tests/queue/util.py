"""Makers of jobs and candidates for the tests of the queue."""

import os

from daemon.queue.ledger import Ledger
from daemon.values import Job, NewJob, Rung, Sighting, State
from pipeline.core.contract import Fault

NOW = 1_800_000_000.0


def new(
    name: bytes = b"a.wav", watch: str = "talks", *, size: int = 10, fault: Fault | None = None
) -> NewJob:
    return NewJob(
        watch=watch,
        root=b"/srv/inbox/" + watch.encode(),
        sighting=Sighting(name=name, size=size, mtime_ns=1_234, ino=7),
        recipe="transcribe",
        options={"language": "en"},
        fault=fault,
        reason="the header promises more bytes than there are" if fault else "",
        hint="copy it again" if fault else "",
    )


def job(
    number: int = 1, state: State = State.QUEUED, watch: str = "talks", priority: int = 0,
    attempt: int = 0, kills: int = 0, rung: Rung = Rung.NORMAL, name: bytes = b"a.wav",
) -> Job:  # fmt: skip
    return Job(
        id=number, watch=watch, root=b"/srv/inbox", recipe="transcribe", options={},
        sighting=Sighting(name=name, size=10, mtime_ns=1_234, ino=7), priority=priority,
        state=state, admitted_at=NOW, updated_at=NOW, attempt=attempt, kills=kills,
        rung=rung,
    )  # fmt: skip


def place(room: bytes) -> bytes:
    return os.path.join(room, b"ledger.db")


def opened(room: bytes) -> Ledger:
    return Ledger.open(place(room), NOW)
