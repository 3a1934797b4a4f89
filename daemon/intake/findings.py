"""What a look finds and what a watch says about it, as plain values."""

from typing import Literal

import msgspec

from daemon.intake.lease import Writer
from daemon.intake.wholeness import Incomplete, Opaque, Whole
from daemon.values import Sighting

Mode = Literal["events", "scan"]  # how a watch hears of changes


class Skip(msgspec.Struct, frozen=True):
    """A name that is not taken, and the plain reason."""

    name: bytes  # relative to the watch
    reason: str


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """All that one walk through a watch saw."""

    sightings: list[Sighting]  # in the order of arrival: mtime, then name
    skips: list[Skip]  # the first few
    skipped: int  # all of them
    unread: tuple[bytes, ...]  # folders that could not be read: their files are unknown, not gone
    folders: int  # that were read, the root included


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What a close look at one file found."""

    sighting: Sighting | None  # None: gone, or (with a problem) not to be seen
    writer: Writer = Writer.UNKNOWN
    shape: Whole | Incomplete | Opaque | None = None  # None: could not be checked
    problem: str = ""  # why the file can not be read, and what to do
    at: float = 0.0  # monotonic seconds when the look began; 0: not said


class Scanned(msgspec.Struct, frozen=True, kw_only=True):
    """A whole scan went well."""

    watch: str
    at: float  # monotonic seconds when it began
    changed: tuple[Sighting, ...]  # new, or not as in the last scan; in the order of arrival
    vanished: tuple[bytes, ...]  # seen in the last scan, certainly gone now
    total: int  # files that could be taken
    skips: tuple[Skip, ...]  # the first few
    skipped: int  # all of them
    seconds: float
    first: bool  # of this Watcher


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one probe."""

    watch: str
    name: bytes
    probe: Probe


class Offline(msgspec.Struct, frozen=True, kw_only=True):
    """The folder can not be trusted; said once for each reason, until Online."""

    watch: str
    reason: str


class Online(msgspec.Struct, frozen=True, kw_only=True):
    """The folder is there: at first, after Offline, and when `mode` changed."""

    watch: str
    pin: str  # to be remembered for the next run
    local: bool
    mode: Mode


Event = Scanned | Probed | Offline | Online
