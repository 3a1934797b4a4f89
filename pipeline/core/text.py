"""Names from a share, made safe for people: logs, notes, status lines, pages."""

import os
import unicodedata

_LONGEST_CHAR = 4  # bytes of UTF-8
LINE_LIMIT = 400  # characters; a name may have 255 bytes, a reason a few sentences


def shown(name: bytes | str, limit: int = LINE_LIMIT) -> str:
    """A name as one harmless line: printable text stays, all else is escaped, length is bounded.

    Newlines, terminal escapes, direction overrides and bytes that are no text become visible
    escapes, so that a file name can not forge a log line, a notify message or a reading order.
    """
    text = os.fsdecode(name) if isinstance(name, bytes) else name
    safe = "".join(char if _harmless(char) else _escaped(char) for char in text)
    return safe if len(safe) <= limit else f"{safe[: limit - 1]}…"


def _harmless(char: str) -> bool:
    # C: control, format, surrogate, private, unassigned; Zl, Zp: line and paragraph separators
    return char == " " or unicodedata.category(char)[0] not in "CZ"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def fit_name(stem: bytes, suffix: bytes = b"", room: int = 255) -> bytes:
    """The stem shortened so that stem + suffix fits a directory entry (255 bytes on Linux)."""
    space = max(0, room - len(suffix))
    if len(stem) > space:
        cut = space
        while cut > 0 and space - cut < _LONGEST_CHAR and stem[cut] & 0xC0 == 0x80:
            cut -= 1  # not inside a character
        whole = cut > 0 and stem[cut] & 0xC0 != 0x80
        stem = stem[: cut if whole else space]
    return stem + suffix


def split_suffix(name: bytes) -> tuple[bytes, bytes]:
    """Stem and suffix of a file name: `talk.mp3` is (`talk`, `.mp3`); suffix in lower case."""
    stem, suffix = os.path.splitext(os.path.basename(name))
    return stem, suffix.lower()


def human_bytes(size: float) -> str:
    """A size as people read it: 812 B, 3.4 MB, 1.2 GB (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB"):
        digits = 0 if unit == "B" else 1
        if abs(round(size, digits)) < 1000:
            return f"{size:.{digits}f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def human_seconds(seconds: float) -> str:
    """A duration as people read it: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
