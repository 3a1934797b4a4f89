"""Matroska and WebM: a Segment whose length, if stated, must lie inside the file and be tiled.

A Segment without a length is live-written or still being recorded; then only a part that runs
over the end of the file says something, and never that the file is whole.
"""

from dataclasses import dataclass

from daemon.intake.containers.source import (
    CODED_TAIL,
    Incomplete,
    Opaque,
    Source,
    Verdict,
    Whole,
    short,
    unfilled,
)

EBML = 0x1A45DFA3
SEGMENT = 0x18538067
CLUSTER = 0x1F43B675
TRACKS = 0x1654AE6B
# SeekHead, Info, Cues, Attachments, Chapters, Tags, Void, CRC-32
PARTS = frozenset((
    CLUSTER, TRACKS, 0x114D9B74, 0x1549A966, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367,
    0xEC, 0xBF,
))  # fmt: skip
# Codecs that may hold long rows of zeros: silence, black, frames padded to a constant size.
PLAIN = (b"A_PCM", b"A_MS/ACM", b"V_UNCOMPRESSED", b"V_MS/VFW", b"V_PRORES", b"V_QUICKTIME")
TRACKS_READ = 256 * 1024  # bytes


@dataclass
class Layout:
    """What the walk along the Segment's parts found."""

    data_end: int | None = None  # of the last Cluster
    plain: bool = False  # a track that may hold long rows of zeros
    hole: bool = False  # zeros where a part should be
    tiled: bool = False  # the parts end exactly where the Segment does
    missing: int = 0  # bytes of a part beyond the end of the file


def is_matroska(head: bytes) -> bool:
    """Whether a file's first bytes are an EBML header's."""
    return head[:4] == EBML.to_bytes(4, "big")


def check_matroska(source: Source) -> Verdict:
    """Judge by the Segment's stated length and by the parts in it."""
    at = 0
    while True:  # the EBML header, then perhaps Void, then the Segment
        element = _element(source.read(at, 12))
        if element is None:
            return Incomplete("matroska", "ends within its header")
        name, length, header = element
        if name == SEGMENT:
            break
        if length is None or name not in (EBML, 0xEC):
            return Opaque("matroska")
        at += header + length
    start = at + header
    if length is None:
        return _live(source, _walk(source, start, source.size))
    if start + length > source.size:
        return short("matroska", start + length - source.size)
    return _stated(source, _walk(source, start, start + length))


def _stated(source: Source, layout: Layout) -> Verdict:
    if layout.hole:
        # Zeros up to the end are a copy under way; a hole before good data may be an old flaw.
        reason = "has zeros where its next part should be: it is not filled yet"
        return Incomplete("matroska", reason, final=source.zeros_before(source.size))
    if layout.data_end is None:
        return Incomplete("matroska", "has no sound or pictures in it yet", final=False)
    if source.zeros_before(layout.data_end, CODED_TAIL) and layout.tiled and not layout.plain:
        return unfilled("matroska", final=True)
    if source.zeros_before(layout.data_end):
        return unfilled("matroska", final=False)
    return Whole("matroska") if layout.tiled else Opaque("matroska")


def _live(source: Source, layout: Layout) -> Verdict:
    if layout.missing:
        return short("matroska", layout.missing)
    if layout.hole or source.zeros_before(source.size):
        return unfilled("matroska", final=False)
    return Opaque("matroska")


def _walk(source: Source, at: int, end: int) -> Layout:
    layout = Layout()
    while at < end:
        head = source.read(at, 12)
        name, length, header = _element(head) or (0, None, 0)
        if length is None:
            layout.hole = not head.strip(b"\0")
            return layout
        if at + header + length > end:
            if name in PARTS and end == source.size:
                layout.missing = at + header + length - end
            return layout
        at += header + length
        if name == CLUSTER:
            layout.data_end = at
        elif name == TRACKS:
            tracks = source.read(at - length, min(length, TRACKS_READ))
            layout.plain = length > TRACKS_READ or any(codec in tracks for codec in PLAIN)
    layout.tiled = True
    return layout


def _element(head: bytes) -> tuple[int, int | None, int] | None:
    """An element's id, its length in bytes (None: not stated), and its header's length."""
    if not head or head[0] < 0x10:
        return None
    id_size = 9 - head[0].bit_length()
    if len(head) <= id_size or not head[id_size]:
        return None
    width = 9 - head[id_size].bit_length()
    field = head[id_size : id_size + width]
    if len(field) < width:
        return None
    mask = (1 << 7 * width) - 1
    length = int.from_bytes(field, "big") & mask
    name = int.from_bytes(head[:id_size], "big")
    return name, None if length == mask else length, id_size + width
