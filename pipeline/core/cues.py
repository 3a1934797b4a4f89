"""Subtitle cues from a transcript: short lines, readable times, no word lost."""

import unicodedata
from collections.abc import Iterator, Sequence

import msgspec

from pipeline.core.speech import Segment, Word

LONGEST_S = 7.0  # a cue on the screen
SHORTEST_MS = 800  # if the next cue leaves room for it
LEAST_MS = 200  # even where phrases follow one another too fast
SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！")


class Cue(msgspec.Struct, frozen=True, kw_only=True):
    """Lines that are shown from start to end, in milliseconds."""

    start: int
    end: int
    lines: tuple[str, ...]


def make_cues(
    segments: Sequence[Segment], seconds: float, *, line_chars: int, line_count: int
) -> list[Cue]:
    """Cues in order, apart, inside the recording's length, with every word of the segments."""
    groups = [
        group
        for segment in sorted(segments, key=lambda segment: segment.start)
        for group in _groups(timed_words(segment, line_chars), line_chars, line_count)
    ]
    times = _times([(group[0].start, group[-1].end) for group in groups], seconds)
    return [
        Cue(start=start, end=end, lines=_lines([word.text for word in group], line_chars))
        for group, (start, end) in zip(groups, times, strict=True)
    ]


def timed_words(segment: Segment, line_chars: int) -> list[Word]:
    """The segment's words with times, none wider than a line.

    Where the engine gave no times, each word gets a share of the segment by its characters.
    """
    if segment.words:
        parts = [
            (piece, word.start, word.end)
            for word in segment.words
            for piece in _pieces(word.text, line_chars)
        ]
        return [Word(start=start, end=end, text=text) for text, start, end in parts]
    pieces = _pieces(segment.text, line_chars)
    total = sum(map(len, pieces))
    length = max(0.0, segment.end - segment.start)
    words: list[Word] = []
    said = 0
    for piece in pieces:
        start = segment.start + length * said / total
        said += len(piece)
        words.append(Word(start=start, end=segment.start + length * said / total, text=piece))
    return words


def _pieces(text: str, width: int) -> list[str]:
    """The text at its spaces, without control characters; too wide pieces are cut."""
    plain = "".join(
        char if char.isspace() or unicodedata.category(char) not in ("Cc", "Cs") else " "
        for char in text
    )
    return [
        word[first : first + width]
        for word in plain.split()
        for first in range(0, len(word), width)
    ]


def _groups(words: Sequence[Word], line_chars: int, line_count: int) -> Iterator[list[Word]]:
    """Words that share a cue: as many as fit, ended by a sentence's end or by time."""
    group: list[Word] = []
    for word in words:
        texts = [known.text for known in group] + [word.text]
        if group and (
            len(_wrapped(texts, line_chars)) > line_count
            or word.end - group[0].start > LONGEST_S
            or group[-1].text.endswith(SENTENCE_ENDS)
        ):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _wrapped(words: Sequence[str], width: int) -> list[str]:
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _lines(words: Sequence[str], width: int) -> tuple[str, ...]:
    """As few lines as needed, all about as long as each other."""
    count = len(_wrapped(words, width))
    narrowest = max(map(len, words))
    fitting = (_wrapped(words, narrow) for narrow in range(narrowest, width + 1))
    return tuple(next(lines for lines in fitting if len(lines) == count))


def _times(wanted: Sequence[tuple[float, float]], seconds: float) -> list[tuple[int, int]]:
    """Start and end of each cue in milliseconds: as wanted, but apart and inside the recording."""
    if not wanted:
        return []
    whole = max(int(seconds * 1000), len(wanted))
    step = min(LEAST_MS, whole // len(wanted))
    starts: list[int] = []
    for start, _end in wanted:
        earliest = starts[-1] + step if starts else 0
        starts.append(max(round(start * 1000), earliest, 0))
    for number, start in enumerate(starts):
        starts[number] = min(start, whole - (len(starts) - number) * step)
    times: list[tuple[int, int]] = []
    for start, (_start, end), after in zip(starts, wanted, [*starts[1:], whole], strict=True):
        last = min(max(round(end * 1000), start + SHORTEST_MS), start + int(LONGEST_S * 1000))
        times.append((start, min(last, after)))
    return times
