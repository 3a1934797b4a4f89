"""What the daemon and the worker say to each other: one JSON object a line, typed on both ends.

Paths travel as bytes (base64 in JSON), because a name on a share need not be valid text.
Bytes of media never travel; both sides see the same folders.
"""

from enum import StrEnum
from typing import Any

import msgspec

PROTOCOL = 1


class Fault(StrEnum):
    """Why a job failed; each kind is one decision of the queue."""

    BAD_INPUT = "bad_input"  # never again
    NO_MEMORY = "no_memory"  # one rung down
    NO_SPACE = "no_space"  # wait for room, no attempt lost
    TRANSIENT = "transient"  # later
    MISSING = "missing"  # a package or weights: fail with the command that brings them
    STICKY = "sticky"  # the process can no longer be trusted: a new worker
    DEVICE = "device"  # the card is lost: go on without it
    CANCELLED = "cancelled"  # asked for
    LOST = "lost"  # the worker died; said by the daemon only
    TIMEOUT = "timeout"  # the time limit or silence; said by the daemon only


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="say"):
    """A line on the link."""


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """One finished file in the staging folder: its name there and its size in bytes."""

    name: bytes
    size: int


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """One reading of memory and card; None where it can not be known. Sizes in bytes, use in %."""

    rss: int | None = None  # resident memory of the process tree
    ram_free: int | None = None  # what the host could still give
    vram: int | None = None  # our own share of the card
    vram_free: int | None = None
    gpu: int | None = None  # utilisation of the card, 0 to 100


class StageReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one finished stage did, as measured."""

    stage: str
    engine: str
    seconds: float
    device: str = "cpu"
    resumed: bool = False  # taken over from an earlier attempt
    fallback: str = ""  # why the main engine did not run; empty if it did
    usage: Usage = Usage()
    facts: dict[str, Any] = {}  # the stage's own figures, e.g. frames, segments, audio seconds


class Order(Message, frozen=True, kw_only=True, tag="order"):
    """Daemon to worker: turn one file into its recipe's outputs."""

    job: int
    attempt: int
    recipe: str
    root: bytes  # the watched folder
    name: bytes  # the file, relative to root
    mark: str  # identity of the bytes (see Sighting.mark); checkpoints of another mark are void
    stem: bytes  # what the outputs are called
    scratch: bytes  # folder for intermediate files and checkpoints; made by the worker
    staging: bytes  # folder on the outbox's file system for outputs; made by the worker
    options: dict[str, Any] = {}
    device: str = "auto"  # auto | cpu | cuda
    frugal: bool = False  # the smallest batch and every saving from the start
    models: bytes = b""  # folder of local weights
    offline: bool = False


class Cancel(Message, frozen=True, kw_only=True, tag="cancel"):
    """Daemon to worker: stop this job at the next safe point."""

    job: int


class Stop(Message, frozen=True, kw_only=True, tag="stop"):
    """Daemon to worker: take no more orders, finish nothing new, leave."""


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """Worker to daemon: I am up and can take this many jobs at once."""

    pid: int
    lanes: int
    card: str = ""  # the card's name, empty without one
    protocol: int = PROTOCOL


class Alive(Message, frozen=True, kw_only=True, tag="alive"):
    """Worker to daemon, every second: the process turns; `usage` is its whole tree."""

    usage: Usage
    memory: dict[str, Any] = {}  # for the status: tier, pressure, budget, plans, shelf


class Beat(Message, frozen=True, kw_only=True, tag="beat"):
    """Worker to daemon: this job moved on. Its absence for long means a hang."""

    job: int
    stage: str
    fraction: float | None = None  # of the stage, 0 to 1; None if unknown
    overall: float | None = None  # of the job, 0 to 1


class Note(Message, frozen=True, kw_only=True, tag="note"):
    """Worker to daemon: something about memory that ops want to see, as a line and as facts."""

    event: str  # cleanup | tier | plan | memory | recovery | verdict
    text: str
    job: int | None = None
    warning: bool = False
    facts: dict[str, Any] = {}


class Recycle(Message, frozen=True, kw_only=True, tag="recycle"):
    """Worker to daemon: give me nothing more and replace me once I am idle."""

    reason: str


class StageDone(Message, frozen=True, kw_only=True, tag="stage"):
    """Worker to daemon: a stage is finished and its checkpoint is on disk."""

    job: int
    report: StageReport


class Finished(Message, frozen=True, kw_only=True, tag="finished"):
    """Worker to daemon: every output is whole in the staging folder."""

    job: int
    attempt: int
    outputs: list[Output]
    reports: list[StageReport]


class Failed(Message, frozen=True, kw_only=True, tag="failed"):
    """Worker to daemon: the job can not go on; reason and hint in plain words."""

    job: int
    attempt: int
    fault: Fault
    reason: str
    hint: str = ""
    stage: str = ""
    detail: str = ""  # the traceback's tail, for the log


ToWorker = Order | Cancel | Stop
FromWorker = Hello | Alive | Beat | Note | Recycle | StageDone | Finished | Failed

_encoder = msgspec.json.Encoder()
_to_worker: msgspec.json.Decoder[ToWorker] = msgspec.json.Decoder(ToWorker)
_from_worker: msgspec.json.Decoder[FromWorker] = msgspec.json.Decoder(FromWorker)


def encode_line(message: ToWorker | FromWorker) -> bytes:
    """One message as one line, newline included."""
    return _encoder.encode(message) + b"\n"


def decode_order(line: bytes) -> ToWorker:
    """A line that the daemon wrote; raises msgspec.DecodeError on anything else."""
    return _to_worker.decode(line)


def decode_answer(line: bytes) -> FromWorker:
    """A line that the worker wrote; raises msgspec.DecodeError on anything else."""
    return _from_worker.decode(line)
