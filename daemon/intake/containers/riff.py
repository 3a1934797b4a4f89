"""WAV, RF64, BW64, AVI and AIFF: chunks with a length, in one outer chunk with a length.

A zero tail is never final here. A recording may end in digital silence, and nothing in the file
tells that from space which a copy has reserved and not filled yet: the header with its exact
length comes first in both. So zeros cost a longer wait, never the file.
"""

import struct
from collections.abc import Iterator

from daemon.intake.containers.source import (
    Incomplete,
    Opaque,
    Source,
    Verdict,
    Whole,
    short,
    unfilled,
)

SLACK = 8  # bytes; some writers put the whole file's length where the length after 8 bytes belongs
SLOPPY = 64  # bytes; others count a header or a pad byte into the data
FOUR_GIB = 1 << 32


def is_wav(head: bytes) -> bool:
    """Whether a file's first bytes are a WAV's, RF64's or BW64's."""
    return head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE"


def is_avi(head: bytes) -> bool:
    """Whether a file's first bytes are an AVI's."""
    return head[:4] == b"RIFF" and head[8:12] == b"AVI "


def is_aiff(head: bytes) -> bool:
    """Whether a file's first bytes are an AIFF's or AIFF-C's."""
    return head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC")


def check_wav(source: Source) -> Verdict:
    """Judge a WAV by its data chunk first and by the outer length second."""
    (outer,) = struct.unpack("<I", source.read(4, 4))
    if source.size >= FOUR_GIB + SLACK and source.read(0, 4) == b"RIFF":
        return Opaque("wav")  # its 32-bit lengths have wrapped around
    long_data = None
    for name, start, length in _chunks(source, 12, "<"):
        if name == b"ds64":
            sizes = source.read(start, 16)
            if len(sizes) == 16:
                outer, long_data = struct.unpack("<QQ", sizes)
        elif name == b"data":
            if length == 0xFFFFFFFF and long_data is not None:
                length = long_data
            return _check_sound(source, outer, start, length)
    if not _streamed(outer) and outer + 8 > source.size:
        return short("wav", outer + 8 - source.size)
    return Incomplete("wav", "has a header but no sound yet", final=False)


def _check_sound(source: Source, outer: int, start: int, length: int) -> Verdict:
    size = source.size
    if _streamed(length):  # written to a pipe, or the recorder has not filled it in yet
        if start >= size:
            return Incomplete("wav", "has a header but no sound yet", final=False)
        return Opaque("wav")
    end = start + length
    if end > size:
        return short("wav", end - size, final=end - size > SLOPPY)
    if not _streamed(outer) and outer + 8 > size + SLACK:
        # Only notes after the sound are missing; the sound itself is all there.
        return short("wav", outer + 8 - size, final=False)
    if source.zeros_before(end):
        return unfilled("wav", final=False)
    return Whole("wav")


def _streamed(length: int) -> bool:
    """Whether a length is what programs write that do not know it: 0, or about 2 or 4 GiB."""
    return (
        length == 0
        or 0x7FFFF000 <= length <= 0x80000000 + SLOPPY
        or 0xFFFFF000 <= length <= 0xFFFFFFFF
    )


def check_avi(source: Source) -> Verdict:
    """Judge an AVI by its outer chunk, and by those that OpenDML adds beyond a gigabyte."""
    at = 0
    while True:
        head = source.read(at, 12)
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:12] not in (b"AVI ", b"AVIX"):
            break
        (length,) = struct.unpack_from("<I", head, 4)
        if _streamed(length):
            return Opaque("avi")
        end = at + 8 + length
        if end > source.size:
            return short("avi", end - source.size, final=end - source.size > SLACK)
        if _has_hole(source, at + 12, end):
            return unfilled("avi", final=False)
        at = end + length % 2
    return unfilled("avi", final=False) if source.zeros_before(at) else Whole("avi")


def _has_hole(source: Source, at: int, end: int) -> bool:
    """Whether zeros stand where a chunk should begin."""
    for _name, start, length in _chunks(source, at, "<"):
        at = start + length + length % 2
    return at + 8 <= end and not source.read(at, 8).strip(b"\0")


def check_aiff(source: Source) -> Verdict:
    """Judge an AIFF by its sound chunk first and by the outer length second."""
    (outer,) = struct.unpack(">I", source.read(4, 4))
    if _streamed(outer):
        return Opaque("aiff")
    for name, start, length in _chunks(source, 12, ">"):
        if name != b"SSND":
            continue
        end = start + length
        if end > source.size:
            return short("aiff", end - source.size, final=end - source.size > SLOPPY)
        if outer + 8 > source.size + SLACK:
            return short("aiff", outer + 8 - source.size, final=False)
        return unfilled("aiff", final=False) if source.zeros_before(end) else Whole("aiff")
    if outer + 8 > source.size:
        return short("aiff", outer + 8 - source.size)
    return Incomplete("aiff", "has a header but no sound yet", final=False)


def _chunks(source: Source, at: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk's name, where its content starts, and its stated length in bytes."""
    while True:
        head = source.read(at, 8)
        if len(head) < 8 or head[:4] == bytes(4):
            return
        (length,) = struct.unpack_from(f"{order}I", head, 4)
        yield head[:4], at + 8, length
        at += 8 + length + length % 2
