"""Tiny media files, byte by byte, so that the tests of wholeness need no other program."""

import random
import struct

from daemon.intake.containers.flac import crc8, crc16


def noise(count: int) -> bytes:
    """Bytes that look like coded sound: the same ones each time, no long rows of zeros."""
    return random.Random(count).randbytes(count)


def wav(
    sound: bytes = noise(20_000), *, outer: int | None = None, data: int | None = None
) -> bytes:
    body = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    body += b"data" + struct.pack("<I", len(sound) if data is None else data) + sound
    return b"RIFF" + struct.pack("<I", len(body) if outer is None else outer) + body


def rf64(sound: bytes = noise(20_000)) -> bytes:
    body = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    body += b"data" + b"\xff" * 4 + sound
    sizes = struct.pack("<QQQI", 4 + 36 + len(body), len(sound), len(sound) // 2, 0)
    return b"RF64" + b"\xff" * 4 + b"WAVEds64" + struct.pack("<I", 28) + sizes + body


def avi(parts: int = 1) -> bytes:
    sound = noise(20_000)
    outer = struct.pack("<I", 4 + 8 + len(sound))
    movi = b"LIST" + struct.pack("<I", len(sound)) + sound
    forms = [b"AVI ", *[b"AVIX"] * (parts - 1)]
    return b"".join(b"RIFF" + outer + form + movi for form in forms)


def aiff() -> bytes:
    sound = noise(20_000)
    body = b"AIFFCOMM" + struct.pack(">I", 18) + bytes(18)
    body += b"SSND" + struct.pack(">I", len(sound)) + sound
    return b"FORM" + struct.pack(">I", len(body)) + body


def box(name: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(body), name) + body


def moov(codec: bytes = b"mp4a") -> bytes:
    stsd = box(b"stsd", bytes(4) + struct.pack(">I", 1) + box(codec, bytes(28)))
    inner = box(b"mdia", box(b"minf", box(b"stbl", stsd)))
    return box(b"moov", box(b"mvhd", bytes(100)) + box(b"trak", inner))


FTYP = box(b"ftyp", b"isom\0\0\2\0isomiso2")


def mp4(sound: bytes = noise(20_000), *, faststart: bool = False, codec: bytes = b"mp4a") -> bytes:
    index, data = moov(codec), box(b"mdat", sound)
    return FTYP + (index + data if faststart else box(b"free") + data + index)


def fragments(count: int = 5, *, closed: bool = True) -> bytes:
    each = box(b"moof", bytes(60)) + box(b"mdat", noise(4000))
    return FTYP + moov() + each * count + (box(b"mfra", bytes(40)) if closed else b"")


def listed(count: int = 5) -> bytes:
    """Fragments whose sizes are listed in a sidx at the front, as in a DASH file."""
    each = box(b"moof", bytes(60)) + box(b"mdat", noise(4000))
    rows = struct.pack(">III", len(each), 1, 0) * count
    sidx = box(b"sidx", struct.pack(">IIIIIHH", 0, 1, 1000, 0, 0, 0, count) + rows)
    return FTYP + moov() + sidx + each * count


def element(name: str, body: bytes, length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    return bytes.fromhex(name) + (1 << 56 | length).to_bytes(8, "big") + body


UNKNOWN = (1 << 56) - 1  # "no length stated"


def matroska(*, length: int | None = None, codec: bytes = b"A_OPUS") -> bytes:
    clusters = element("1F43B675", noise(5000)) * 4
    body = element("1654AE6B", codec) + clusters + element("1C53BB6B", noise(50))
    return element("1A45DFA3", b"\x42\x82\x84webm") + element("18538067", body, length)


def mp3(frames: int = 60, *, mark: bytes = b"Info") -> bytes:
    """Frames of 417 bytes; the first states the length of the stream, header included."""
    head = bytes.fromhex("fffb9064")
    stated = struct.pack(">III", 3, frames, 417 * (frames + 1))
    first = (head + bytes(32) + mark + stated).ljust(417, b"\0")
    return first + b"".join(head + noise(413) for _frame in range(frames))


def vbri(frames: int = 60) -> bytes:
    head = bytes.fromhex("fffb9064")
    stated = b"VBRI" + struct.pack(">HHHII", 1, 0, 0, 417 * (frames + 1), frames)
    return (head + bytes(32) + stated).ljust(417, b"\0") + (head + noise(413)) * frames


def id3(count: int = 300) -> bytes:
    return b"ID3\3\0\0" + bytes((0, 0, count >> 7, count & 0x7F)) + bytes(count)


def flac(frames: int = 60, *, samples: int | None = None) -> bytes:
    """Verbatim frames of 192 samples, 16 bit, mono."""
    samples = 192 * frames if samples is None else samples
    rates = 44_100 << 44 | 15 << 36 | samples
    info = struct.pack(">HH", 192, 192) + bytes(6) + rates.to_bytes(8, "big") + bytes(16)
    sound = b"".join(_flac_frame(number) for number in range(frames))
    return b"fLaC" + b"\0\0\0\x22" + info + b"\x84\0\0\x08" + bytes(8) + sound


def _flac_frame(number: int) -> bytes:
    head = b"\xff\xf8\x19\x08" + chr(number).encode()
    frame = head + bytes([crc8(head)]) + b"\x02" + noise(384)
    return frame + crc16(frame).to_bytes(2, "big")


def page(serial: int, number: int, flags: int, body: bytes) -> bytes:
    lengths = b"\xff" * (len(body) // 255) + bytes([len(body) % 255])
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, 0, serial, number, 0, len(lengths))
    return head + lengths + body


def ogg(pages: int = 10, *, ended: bool = True) -> bytes:
    body = b"".join(page(7, number, 0, noise(2000)) for number in range(1, pages))
    last = page(7, pages, 4 if ended else 0, noise(2000))
    return page(7, 0, 2, b"OpusHead" + bytes(11)) + body + last
