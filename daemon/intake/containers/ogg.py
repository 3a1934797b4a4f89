"""Ogg (Vorbis, Opus, FLAC, Theora): pages that state their length; each stream's last is marked.

A page that runs over the end of the file was cut. Pages that are all there without the mark of
the end are what a running recorder writes, but also what a saved web radio looks like: a doubt,
not a proof of a broken file.
"""

import struct
from collections.abc import Iterator

from daemon.intake.containers.source import Incomplete, Source, Verdict, Whole, short, unfilled

MARK = b"OggS"
HEADER = 27  # bytes before the table of lengths
WINDOW = 256 * 1024  # bytes of the tail; a page has at most 65 307
LAST = 0x04  # flag of a stream's last page


def is_ogg(head: bytes) -> bool:
    """Whether bytes are the start of a page."""
    return head[:5] == MARK + b"\0"


def check_ogg(source: Source) -> Verdict:
    """Judge by the pages in the file's tail."""
    filled = source.filled()
    start = max(0, filled - WINDOW)
    tail = source.read(start, filled - start)
    ended: dict[int, bool] = {}
    for serial, flags, end in _pages(tail):
        if end > len(tail):
            cut = filled == source.size
            return short("ogg", end - len(tail)) if cut else unfilled("ogg", final=True)
        ended[serial] = bool(flags & LAST)
    if ended and all(ended.values()):
        return Whole("ogg")
    if filled < source.size:
        return unfilled("ogg", final=True)
    if not ended:
        return Incomplete("ogg", "has no page near its end", final=False)
    return Incomplete("ogg", "has no mark of the end of its stream", final=False)


def _pages(tail: bytes) -> Iterator[tuple[int, int, int]]:
    """Each page's stream, flags and end; an end beyond the tail is where it should end."""
    at = tail.find(MARK)
    while at >= 0:
        head = tail[at : at + HEADER]
        if head[4:5] not in (b"\0", b""):  # the letters happen to stand in the sound
            at = tail.find(MARK, at + 1)
            continue
        lengths = tail[at + HEADER : at + HEADER + head[26]] if len(head) == HEADER else b""
        if len(head) < HEADER or len(lengths) < head[26]:
            yield 0, 0, len(tail) + 1
            return
        (serial,) = struct.unpack_from("<I", head, 14)
        end = at + HEADER + len(lengths) + sum(lengths)
        yield serial, head[5], end
        at = tail.find(MARK, end)
