"""FLAC: the last frame must be the one that reaches the number of samples in STREAMINFO.

Frames carry their own number and a check sum of their header, so the last one is found in the
file's tail without decoding anything; the check sum of the whole frame says that it is all there.
"""

from dataclasses import dataclass

from daemon.intake.containers.source import Incomplete, Opaque, Source, Verdict, Whole, unfilled

WINDOW = 256 * 1024  # bytes of the tail; a usual frame has about ten thousand
WIDE_WINDOW = 1024 * 1024
HEADER = 16  # bytes, the longest frame header
MAX_CANDIDATES = 4096
ID3V1 = 128  # bytes of tag that some programs append


def _crc_table(polynomial: int, bits: int) -> tuple[int, ...]:
    table = []
    top, mask = 1 << bits - 1, (1 << bits) - 1
    for byte in range(256):
        value = byte << bits - 8
        for _bit in range(8):
            value = (value << 1 ^ (polynomial if value & top else 0)) & mask
        table.append(value)
    return tuple(table)


_CRC8 = _crc_table(0x07, 8)
_CRC16 = _crc_table(0x8005, 16)


def crc8(data: bytes) -> int:
    """The check sum of a frame's header."""
    value = 0
    for byte in data:
        value = _CRC8[value ^ byte]
    return value


def crc16(data: bytes) -> int:
    """The check sum of a frame; 0 over a frame with its own check sum, also with zeros after it."""
    value = 0
    for byte in data:
        value = (value << 8 & 0xFF00) ^ _CRC16[value >> 8 ^ byte]
    return value


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What STREAMINFO and the first frame say."""

    audio_at: int  # position of the first frame
    block: int  # samples in each frame but the last, if the blocking is fixed
    frame_max: int  # bytes; 0 if unknown
    samples: int  # in the whole stream; 0 if unknown
    look: bytes = b""  # of a frame: its blocking, sample rate and sample size


def is_flac(head: bytes) -> bool:
    """Whether bytes are the FLAC mark and the start of STREAMINFO."""
    return head[:4] == b"fLaC" and head[4:5] in (b"\0", b"\x80") and head[5:8] == b"\0\0\x22"


def check_flac(source: Source, at: int) -> Verdict:
    """Judge by the last frame; `at` is where the FLAC mark stands (after an ID3 tag, say)."""
    stream = _stream(source, at)
    if stream is None or stream.audio_at >= source.size:
        return Incomplete("flac", "ends within its header")
    if not stream.samples:
        return Opaque("flac")
    return _check_tail(source, stream, source.filled())


def _stream(source: Source, at: int) -> Stream | None:
    """Walk the metadata blocks; None if they do not end inside the file."""
    info = source.read(at + 8, 34)
    at += 4
    while True:
        head = source.read(at, 4)
        if len(head) < 4:
            return None
        at += 4 + int.from_bytes(head[1:4], "big")
        if head[0] & 0x80:
            break
    first = source.read(at, 4)
    if len(info) < 34 or len(first) < 4:
        return None
    return Stream(
        audio_at=at,
        block=int.from_bytes(info[2:4], "big"),
        frame_max=int.from_bytes(info[7:10], "big"),
        samples=int.from_bytes(info[13:18], "big") & (1 << 36) - 1,
        look=_look(first),
    )


def _look(frame: bytes) -> bytes:
    return bytes((frame[1], frame[2] & 0x0F, frame[3] & 0x0F))


def _check_tail(source: Source, stream: Stream, filled: int) -> Verdict:
    window = WINDOW if stream.frame_max <= WINDOW // 2 else WIDE_WINDOW
    start = max(stream.audio_at, filled - window)
    tail = source.read(start, filled - start)
    reached = 0
    at = len(tail)
    for _turn in range(MAX_CANDIDATES):
        at = tail.rfind(b"\xff", 0, at)
        if at < 0:
            break
        end = _frame_end(tail[at : at + HEADER], stream)
        if end == stream.samples:
            return _check_last(tail[at:])
        reached = max(reached, end)
    if filled < source.size:
        return unfilled("flac", final=True)
    if not reached:
        return Incomplete("flac", "has no sound near its end", final=False)
    part = 100 * reached / stream.samples
    return Incomplete("flac", f"stops at {part:.0f} % of the length that its header promises")


def _check_last(frame: bytes) -> Verdict:
    if crc16(frame) == 0:
        return Whole("flac")
    if frame[-ID3V1:].startswith(b"TAG") and crc16(frame[:-ID3V1]) == 0:
        return Whole("flac")
    # Either its last tenth of a second is cut, or a tag of an unknown kind follows.
    return Incomplete("flac", "does not end where its last frame ends", final=False)


def _frame_end(head: bytes, stream: Stream) -> int:
    """The sample at which the frame with this header ends; 0 if it is no header of this stream."""
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8 or _look(head) != stream.look:
        return 0
    coded = _coded_number(head[4:])
    if coded is None:
        return 0
    number, width = coded
    at = 4 + width
    code = head[2] >> 4
    extra = {6: 1, 7: 2}.get(code, 0)
    block = _block_size(code, head[at : at + extra])
    at += extra + {12: 1, 13: 2, 14: 2}.get(head[2] & 0x0F, 0)
    if not block or len(head) <= at or crc8(head[:at]) != head[at]:
        return 0
    start = number if head[1] & 1 else number * stream.block
    return start + block if start + block <= stream.samples else 0


def _block_size(code: int, extra: bytes) -> int:
    if code == 1:
        return 192
    if 2 <= code <= 5:
        return 576 << code - 2
    if code in (6, 7):
        return int.from_bytes(extra, "big") + 1
    return 256 << code - 8 if code else 0


def _coded_number(data: bytes) -> tuple[int, int] | None:
    """A frame or sample number, written like UTF-8 but up to 36 bits, and its width in bytes."""
    lead = data[0]
    width = 8 - (lead ^ 0xFF).bit_length()  # ones before the first zero
    if width == 0:
        return lead, 1
    if width in (1, 8) or len(data) < width:
        return None
    number = lead & (0x7F >> width)
    for byte in data[1:width]:
        if byte & 0xC0 != 0x80:
            return None
        number = number << 6 | byte & 0x3F
    return number, width
