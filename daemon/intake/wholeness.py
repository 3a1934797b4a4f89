"""Whether a file's own container says that all of its bytes are there.

Quiet is no proof: a stalled copy is quiet too, and a preallocated file has its final size from the
start. But most containers state their length. The kind is told by content, never by suffix; a few
KiB are read, at most some MiB, and the work is bounded however hostile the file. More bytes than
stated are tags and padding; fewer are a cut.

What this can not see: a hole in the middle (a torrent's pieces), a cut at the exact end of a
fragment or page in formats that state no length (these are Opaque or a doubt, never Whole), and
whether the bytes decode.
"""

from collections.abc import Callable
from typing import BinaryIO

from daemon.intake.containers.flac import check_flac, is_flac
from daemon.intake.containers.matroska import check_matroska, is_matroska
from daemon.intake.containers.mp3 import check_mp3, id3_end, is_mp3
from daemon.intake.containers.mp4 import check_mp4, is_mp4
from daemon.intake.containers.ogg import check_ogg, is_ogg
from daemon.intake.containers.riff import (
    check_aiff,
    check_avi,
    check_wav,
    is_aiff,
    is_avi,
    is_wav,
)
from daemon.intake.containers.source import (
    TAIL,
    Incomplete,
    Opaque,
    Shrunk,
    Source,
    TooMuch,
    Verdict,
    Whole,
    short,
    unfilled,
)

__all__ = ["Incomplete", "Opaque", "Verdict", "Whole", "check"]

_HEAD = 4096  # bytes
_CONTAINERS: tuple[tuple[str, Callable[[bytes], bool], Callable[[Source], Verdict]], ...] = (
    ("wav", is_wav, check_wav),
    ("avi", is_avi, check_avi),
    ("aiff", is_aiff, check_aiff),
    ("mp4", is_mp4, check_mp4),
    ("matroska", is_matroska, check_matroska),
    ("ogg", is_ogg, check_ogg),
)


def check(file: BinaryIO, size: int) -> Whole | Incomplete | Opaque:
    """Judge an open file of `size` bytes; its position afterwards is undefined.

    Never raises because of what the file holds; OSError only where the disk or share fails.
    """
    if size <= 0:
        return Incomplete("", "is empty")
    source = Source(file, size)
    try:
        head = source.read(0, _HEAD)
        zero_tail = source.zeros_before(size)
        verdict = _judge(source, head)
    except Shrunk:
        return Incomplete("", "became shorter while it was looked at", final=False)
    if isinstance(verdict, Opaque) and (zero_tail or (size > TAIL and not head.strip(b"\0"))):
        # Nothing proves where this format's data should end, so this is a doubt, not a proof.
        return unfilled(verdict.kind, final=False)
    return verdict


def _judge(source: Source, head: bytes) -> Verdict:
    kind, look = _reader(head)
    try:
        return look(source)
    except TooMuch:
        return Opaque(kind)


def _reader(head: bytes) -> tuple[str, Callable[[Source], Verdict]]:
    for kind, fits, look in _CONTAINERS:
        if fits(head):
            return kind, look
    return "", _judge_stream


def _judge_stream(source: Source) -> Verdict:
    """MP3 and FLAC, which may follow ID3 tags."""
    at = id3_end(source)
    if at > source.size:
        return short("mp3", at - source.size)
    if at and at == source.size:
        return Incomplete("mp3", "holds only its tags so far")
    after = source.read(at, 8)
    if is_flac(after):
        return check_flac(source, at)
    # After a tag, padding may stand before the first frame.
    if is_mp3(after) or (at and not after.strip(b"\0")):
        return check_mp3(source, at)
    return Opaque()
