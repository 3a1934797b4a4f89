"""Speech as plain values: where it is, what was said, and the decoded sound that both refer to.

All times are seconds on the original's clock; 0 is the start of its container.
"""

import math
import os
import re
from collections.abc import Sequence

import msgspec

RATE = 16_000  # samples a second of the decoded sound
SAMPLE_BYTES = 2  # signed 16 bit, little endian, one channel

# What the stages of a speech recipe leave in the scratch folder for one another.
SOUND = "audio.s16"  # raw samples
SOUND_FACTS = "audio.json"  # Sound
SPEECH = "speech.json"  # Speech
TRANSCRIPT = "transcript.json"  # Transcript

# A text of up to 60 characters that follows itself three times or more.
_LOOP = re.compile(r"(\S.{0,59}?)(?:\s*\1){3,}", re.DOTALL)


class Sound(msgspec.Struct, frozen=True, kw_only=True):
    """The decoded sound of one file."""

    seconds: float
    samples: int
    rate: int
    errors: int  # damaged packets that were skipped
    container: str
    codec: str  # of the track that was decoded


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of time."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start


class Speech(msgspec.Struct, frozen=True, kw_only=True):
    """Where somebody speaks: ordered spans that do not overlap."""

    spans: tuple[Span, ...]
    threshold: float


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """One spoken word; confidence from 0 to 1, None where the engine gives none."""

    start: float
    end: float
    text: str
    confidence: float | None = None


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A phrase or sentence; without words where the engine knows only the phrase's times."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()


class Transcript(msgspec.Struct, frozen=True, kw_only=True):
    """What was said, and which engine says so."""

    engine: str  # name, version and model; "none" if there was nothing to hear
    draft: bool  # made by the last-resort engine: expect wrong words
    fallback: str  # why the main engine did not run
    language: str  # a code such as "en"; empty if unknown
    seconds: float  # of the whole recording
    segments: tuple[Segment, ...]


def read_pcm(path: bytes, first: int, count: int) -> bytes:
    """Raw samples first … first + count of a decoded sound; fewer at its end."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(fd, "rb", buffering=0) as file:
        file.seek(first * SAMPLE_BYTES)
        data = file.read(count * SAMPLE_BYTES)
    return data[: len(data) - len(data) % SAMPLE_BYTES]


def without_loops(text: str) -> str:
    """The text with every part that is said four times or more in a row said once.

    Only for text that is known to be broken: a chorus or «ha ha ha ha» is no loop.
    """
    return _LOOP.sub(r"\1", text)


def phrases(
    tokens: Sequence[int], begin: int, step: float, seconds: float
) -> list[tuple[float, float, list[int]]]:
    """Start, end and text tokens of each phrase that a model wrote between timestamp tokens.

    Tokens from `begin` on are times in units of `step` seconds. What starts only after the end of
    the sound (`seconds`) was heard in the silence that fills up the model's window: it is left out.
    """
    found: list[tuple[float, float, list[int]]] = []
    start, text = 0.0, list[int]()
    for token in [*tokens, begin + math.ceil(seconds / step)]:
        if token < begin:
            text.append(token)
            continue
        time = min((token - begin) * step, seconds)
        if text and start < seconds:
            found.append((start, max(time, start), text))
        start, text = time, []
    return found
