"""MP3: the byte count of a Xing, Info or VBRI header in its first frame, and ID3v2 tags.

A file without such a header states no length at all; one that says more bytes than are there was
cut. More bytes than stated are tags (ID3v1, APE) and padding.
"""

import struct

from daemon.intake.containers.source import (
    CODED_TAIL,
    Opaque,
    Source,
    Verdict,
    Whole,
    short,
    unfilled,
)

SEARCH = 16 * 1024  # bytes of padding that may stand between a tag and the first frame
# Encoders count the header's own frame or a tag in or out; a frame has at most 2881 bytes.
SLOPPY = 4096


def is_mp3(head: bytes) -> bool:
    """Whether bytes are the header of an MPEG audio frame of layer III."""
    return (
        len(head) >= 4
        and head[0] == 0xFF
        and head[1] & 0xE6 == 0xE2  # sync, layer III
        and head[1] & 0x18 != 0x08  # the version that does not exist
        and head[2] >> 4 not in (0, 15)
        and head[2] & 0x0C != 0x0C
    )


def id3_end(source: Source) -> int:
    """Where the ID3v2 tags at the start of a file end; 0 if there are none."""
    at = 0
    while True:
        head = source.read(at, 10)
        # The version is checked because a text may well begin with the letters ID3.
        if len(head) < 10 or head[:3] != b"ID3" or head[3] not in (2, 3, 4):
            return at
        if max(head[6:10]) > 0x7F:
            return at
        length = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        at += 10 + length + (10 if head[5] & 0x10 else 0)


def check_mp3(source: Source, at: int) -> Verdict:
    """Judge by the byte count that the first frame, at or after a position, may carry."""
    window = source.read(at, SEARCH + 256)
    start = next(
        (found for found in _candidates(window) if is_mp3(window[found : found + 4])), None
    )
    if start is None:
        return Opaque("mp3")
    stated = _stated(window[start : start + 256])
    if not stated:
        return Opaque("mp3")
    end = at + start + stated
    if end > source.size:
        return short("mp3", end - source.size, final=end - source.size > SLOPPY)
    zeros = source.zeros_before(end, CODED_TAIL)
    return unfilled("mp3", final=True) if zeros else Whole("mp3")


def _candidates(window: bytes) -> list[int]:
    return [at for at, byte in enumerate(window[:SEARCH]) if byte == 0xFF]


def _stated(frame: bytes) -> int:
    """The stream's length in bytes, from its first frame on; 0 if it is not stated."""
    mono = frame[3] >> 6 == 3 if len(frame) > 3 else False
    mpeg1 = frame[1] & 0x18 == 0x18
    side = (17 if mono else 32) if mpeg1 else (9 if mono else 17)
    xing = frame[4 + side :]
    if xing[:4] in (b"Xing", b"Info") and len(xing) >= 16:
        (flags,) = struct.unpack_from(">I", xing, 4)
        at = 12 if flags & 1 else 8
        return int(struct.unpack_from(">I", xing, at)[0]) if flags & 2 else 0
    vbri = frame[36:]
    if vbri[:4] == b"VBRI" and len(vbri) >= 14:
        return int(struct.unpack_from(">I", vbri, 10)[0])
    return 0
