"""What exists in the daemon: sightings, jobs, their states and the table of legal moves."""

import os
from enum import IntEnum, StrEnum

import msgspec

from pipeline.core.contract import Fault, Output, StageReport


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at a path saw. `ino` is 0 where inode numbers mean nothing (network mounts)."""

    name: bytes  # relative to the watch
    size: int
    mtime_ns: int
    ino: int = 0

    @property
    def mark(self) -> str:
        """Identity of these bytes at this name, as far as a look can tell."""
        return f"{self.size}-{self.mtime_ns}-{self.ino}"


class State(StrEnum):
    """Where a job is on its walk."""

    QUEUED = "queued"  # admitted, original untouched
    CLAIMED = "claimed"  # attempt counted, order sent or about to be
    STAGED = "staged"  # outputs whole and durable in staging, target name reserved
    PUBLISHED = "published"  # result folder renamed into the outbox
    FAILING = "failing"  # failed for good; the original is on its way to the failed folder
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"  # by a person; the original stays where it is
    SUPERSEDED = "superseded"  # the file changed; its new bytes are another visit
    GONE = "gone"  # the file was deleted before its result was staged


OPEN = frozenset({State.QUEUED, State.CLAIMED, State.STAGED, State.PUBLISHED, State.FAILING})
ENDED = frozenset(State) - OPEN

MOVES: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset(
        {State.CLAIMED, State.FAILING, State.CANCELLED, State.SUPERSEDED, State.GONE}
    ),
    State.CLAIMED: frozenset(
        {State.QUEUED, State.STAGED, State.FAILING, State.CANCELLED, State.SUPERSEDED, State.GONE}
    ),
    # Back to QUEUED if what was staged is no longer there (somebody emptied the outbox).
    State.STAGED: frozenset({State.PUBLISHED, State.QUEUED, State.FAILING}),
    State.PUBLISHED: frozenset({State.DONE}),
    State.FAILING: frozenset({State.FAILED}),
    **{state: frozenset() for state in ENDED},
}


class Rung(IntEnum):
    """How far down the ladder a job is after memory ran out; smaller batches come before it."""

    NORMAL = 0
    FRESH = 1  # alone in a fresh worker, with the smallest batch and every saving
    CPU = 2  # alone in a fresh worker that does not see the card


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A settled file, ready to be admitted."""

    watch: str
    root: bytes  # the watched folder, absolute
    sighting: Sighting
    recipe: str
    options: dict[str, object] = {}
    priority: int = 0  # higher first
    fault: Fault | None = (
        None  # set if intake already proved the file unusable: straight to FAILING
    )
    reason: str = ""
    hint: str = ""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One visit of one file: a row in the ledger."""

    id: int
    watch: str
    root: bytes
    sighting: Sighting
    recipe: str
    options: dict[str, object]
    priority: int
    state: State
    admitted_at: float  # wall clock, seconds
    updated_at: float
    attempt: int = 0  # orders sent so far, counted before each is sent
    kills: int = 0  # attempts that ended with the worker dead
    rung: Rung = Rung.NORMAL
    target: bytes = b""  # the result folder, relative to the outbox; set with STAGED
    original_to: bytes = b""  # where the original goes or went, absolute; empty: it stays
    fault: Fault | None = None
    reason: str = ""
    hint: str = ""
    outputs: list[Output] = []
    reports: list[StageReport] = []

    @property
    def name(self) -> bytes:
        """The file, relative to its watch."""
        return self.sighting.name

    @property
    def mark(self) -> str:
        """Identity of the bytes that this visit is about."""
        return self.sighting.mark

    @property
    def source(self) -> bytes:
        """The dropped file's absolute path."""
        return os.path.join(self.root, self.name)

    @property
    def label(self) -> str:
        """The job's number as people see it."""
        return f"{self.id:06d}"
