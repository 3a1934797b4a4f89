"""MP4, MOV, M4A and 3GP: boxes that must tile the file, with an index (moov) and data (mdat).

Progressive files state every length. Fragmented ones (moof) may end after any fragment, so only a
closing mfra box, or a sidx that lists all fragments, proves their end.
"""

import struct
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

FIRST = frozenset((b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"))
# After index and data, only these are parts of the film; the rest are tags and other appendices.
PARTS = FIRST | {b"moof", b"mfra", b"sidx", b"ssix", b"uuid", b"meta", b"udta", b"emsg", b"prft"}
CONTAINERS = frozenset((b"moov", b"trak", b"mdia", b"minf", b"stbl"))
# Sample formats without long rows of zeros. Any other may be plain samples (silence, black), or
# frames padded with zeros to a constant size, as in studio formats.
CODED = frozenset((
    b"avc1", b"avc3", b"hvc1", b"hev1", b"dvh1", b"dvhe", b"av01", b"vp08", b"vp09", b"mp4v",
    b"s263", b"mp4a", b"alac", b"Opus", b"fLaC", b"ac-3", b"ec-3", b".mp3", b"samr", b"sawb",
    b"tx3g", b"text", b"tmcd",
))  # fmt: skip


@dataclass
class Layout:
    """What the walk along the top-level boxes found."""

    moov: tuple[int, int] | None = None  # first and last position of its content
    data_end: int | None = None  # of the last mdat
    open_ended: bool = False  # an mdat that states no length
    fragments: bool = False
    closed: bool = False  # mfra, or a sidx that lists several fragments and ends where they end
    image: bool = False
    hole: bool = False  # zeros where a box should be
    listed_end: int = 0  # by sidx
    missing: int = 0  # bytes of the last box beyond the end of the file


def is_mp4(head: bytes) -> bool:
    """Whether a file's first bytes are a box that such a file begins with."""
    # A short first byte keeps out texts that happen to read "the free…".
    return head[4:8] in FIRST and (head[0] < 0x20 or head[4:8] == b"mdat")


def check_mp4(source: Source) -> Verdict:
    """Judge by the top-level boxes; the content of a box is only looked at for zeros."""
    layout = _walk(source)
    if layout.missing:
        playable = layout.moov is not None and layout.data_end is not None
        return short("mp4", layout.missing, final=not playable or layout.fragments)
    if layout.moov is None:
        return _without_index(layout)
    if layout.fragments:
        return _fragmented(source, layout)
    if layout.open_ended:
        return Opaque("mp4")
    if layout.data_end is None:
        return Incomplete("mp4", "has its index (moov), but the data is not there yet")
    if source.zeros_before(layout.data_end, CODED_TAIL) and _all_coded(source, *layout.moov):
        return unfilled("mp4", final=True)
    if source.zeros_before(layout.data_end):
        return unfilled("mp4", final=False)
    return Whole("mp4")


def _walk(source: Source) -> Layout:
    layout = Layout()
    at = 0
    while True:
        head = source.read(at, 16)
        box = _box(head)
        if box is None:
            return layout
        name, length, header = box
        if name == bytes(4):
            layout.hole = True
            return layout
        if length == 0:
            layout.open_ended = name == b"mdat"
            return layout
        ready = layout.moov is not None and layout.data_end is not None
        if ready and name not in PARTS:
            return layout
        if at + length > source.size:
            layout.missing = at + length - source.size
            return layout
        _note(source, layout, name, at + header, at + length)
        at += length


def _box(head: bytes) -> tuple[bytes, int, int] | None:
    """A box's name, its length with the header (0: to the end), and its header's length."""
    if len(head) < 8:
        return None
    length, name = struct.unpack_from(">I4s", head)
    header = 8
    if length == 1:
        if len(head) < 16:
            return None
        (length,) = struct.unpack_from(">Q", head, 8)
        header = 16
    if name != bytes(4) and 0 < length < header:
        return None
    return name, length, header


def _note(source: Source, layout: Layout, name: bytes, start: int, end: int) -> None:
    if name == b"moov":
        layout.moov = layout.moov or (start, end)
    elif name == b"mdat":
        layout.data_end = end
        layout.closed = layout.closed or end == layout.listed_end
    elif name == b"moof":
        layout.fragments = True
    elif name == b"mfra":
        layout.closed = True
    elif name == b"meta":
        layout.image = True
    elif name == b"sidx" and not layout.fragments:
        count, listed_end = _index(source, start, end)
        if count > 1:  # a list of one says nothing about those that follow
            layout.listed_end = max(layout.listed_end, listed_end)


def _index(source: Source, start: int, end: int) -> tuple[int, int]:
    """How many fragments a sidx lists, and the position where they end."""
    body = source.read(start, min(end - start, 12 * 65_536))
    wide = body[:1] not in (b"", b"\0")
    at = 20 if wide else 16  # after version, flags, reference id, time scale, earliest time
    if len(body) < at + (8 if wide else 4) + 4:
        return 0, 0
    offset, _reserved, count = struct.unpack_from(">QHH" if wide else ">IHH", body, at)
    at += 12 if wide else 8
    if len(body) < at + 12 * count:
        return 0, 0
    sizes = struct.iter_unpack(">I8x", body[at : at + 12 * count])
    return count, end + offset + sum(size & 0x7FFFFFFF for (size,) in sizes)


def _without_index(layout: Layout) -> Verdict:
    if layout.image or layout.fragments:  # a HEIF picture; a segment for a player that has moov
        return Opaque("mp4")
    if layout.hole:
        return Incomplete("mp4", "has zeros where its next part should be: it is not filled yet")
    return Incomplete("mp4", "has no index (moov) yet, which is often written last")


def _fragmented(source: Source, layout: Layout) -> Verdict:
    if layout.listed_end > source.size:
        return short("mp4", layout.listed_end - source.size)
    if layout.data_end is None:
        return Incomplete("mp4", "has its index (moov), but the data is not there yet")
    if source.zeros_before(layout.data_end) or (layout.hole and not layout.closed):
        return unfilled("mp4", final=False)
    return Whole("mp4") if layout.closed else Opaque("mp4")


def _all_coded(source: Source, start: int, end: int) -> bool:
    """Whether every track of an index holds coded samples, which are never long rows of zeros."""
    formats = set()
    pending = [(start, end)]
    while pending:
        at, end = pending.pop()
        while at < end:
            box = _box(source.read(at, 16))
            if box is None or box[1] == 0:
                break
            name, length, header = box
            if name in CONTAINERS:
                pending.append((at + header, min(at + length, end)))
            elif name == b"stsd":
                formats.add(source.read(at + header + 12, 4))
            at += length
    return bool(formats) and formats <= CODED
