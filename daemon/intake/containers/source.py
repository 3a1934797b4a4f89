"""The verdicts on a file's wholeness, and the bounded reader that all containers are read with."""

from dataclasses import dataclass
from typing import BinaryIO

import msgspec

from pipeline.core.text import human_bytes

TAIL = 64 * 1024  # bytes of zeros that raise a doubt about any file
CODED_TAIL = 8 * 1024  # bytes of zeros that no coded sound or picture has in it
BLOCK = 4096  # bytes
MAX_READS = 16_384  # a day of film has fewer parts; each costs a round trip on a share
MAX_BYTES = 8 * 1024 * 1024


class Whole(msgspec.Struct, frozen=True):
    """The container's own lengths prove that every byte is there."""

    kind: str


class Incomplete(msgspec.Struct, frozen=True):
    """Bytes are missing; `reason` continues a sentence that begins with the file's name.

    `final`: if this stays so, the file is broken. Otherwise it is a doubt that a whole file can
    also raise (digital silence looks like unfilled space): wait longer, then take the file.
    """

    kind: str
    reason: str
    final: bool = True


class Opaque(msgspec.Struct, frozen=True):
    """Nothing can be said: no container that is known here, or one that states no length."""

    kind: str = ""


Verdict = Whole | Incomplete | Opaque


class TooMuch(Exception):
    """The file asks for more reading than any honest one; nothing is decided about it."""


class Shrunk(Exception):
    """The file is shorter by now than it was said to be."""


@dataclass
class Source:
    """An open file of a known size, read by position and within a budget."""

    file: BinaryIO
    size: int
    reads: int = 0
    total: int = 0

    def read(self, at: int, count: int) -> bytes:
        """Up to count bytes from position at; fewer, or none, only at the end of the file.

        Raises TooMuch when the budget is spent, Shrunk, and OSError where the disk fails.
        """
        count = min(count, self.size - at)
        if count <= 0 or at < 0:
            return b""
        self.reads += 1
        self.total += count
        if self.reads > MAX_READS or self.total > MAX_BYTES:
            raise TooMuch
        self.file.seek(at)
        data = self.file.read(count)
        while len(data) < count:  # an unbuffered file may give less than asked
            more = self.file.read(count - len(data))
            if not more:
                raise Shrunk
            data += more
        return data

    def zeros_before(self, end: int, count: int = TAIL) -> bool:
        """Whether so many bytes before a position are there and hold nothing but zeros."""
        end = min(end, self.size)
        return end > count and not self.read(end - count, count).strip(b"\0")

    def filled(self) -> int:
        """Where a tail of zeros begins, rounded up to 4 KiB; found by halving.

        For coded media only, which have no whole block of zeros before that tail.
        """
        if not self.zeros_before(self.size, BLOCK):
            return self.size
        low, high = 0, self.size // BLOCK
        while low < high:
            middle = (low + high) // 2
            if self.read(middle * BLOCK, BLOCK).strip(b"\0"):
                low = middle + 1
            else:
                high = middle
        return low * BLOCK


def short(kind: str, missing: int, *, final: bool = True) -> Incomplete:
    """The verdict on a file that has fewer bytes than its header promises."""
    return Incomplete(kind, f"is {human_bytes(missing)} short of what its header promises", final)


def unfilled(kind: str, *, final: bool) -> Incomplete:
    """The verdict on a file whose data ends in zeros."""
    return Incomplete(
        kind, "ends in zeros, like a file that was preallocated and is not filled yet", final
    )
