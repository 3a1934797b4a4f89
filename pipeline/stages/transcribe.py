"""Turns speech into text: Whisper if it can run, else a draft that says that it is one."""

import bisect
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import numpy as np

from pipeline.core.errors import EngineMissing, NoMemory
from pipeline.core.files import write_whole
from pipeline.core.recipes import TranscribeOptions
from pipeline.core.speech import (
    RATE,
    SOUND,
    SOUND_FACTS,
    SPEECH,
    TRANSCRIPT,
    Segment,
    Sound,
    Span,
    Speech,
    Transcript,
    Word,
    read_pcm,
)
from pipeline.core.stage import Load, StageResult, Work
from pipeline.engines import openai_whisper, sphinx

LANE = "gpu"
WHISPER_CHUNK = 30.0  # seconds that the model hears at once
SPHINX_CHUNK = 15.0
SPHINX_PAUSE = 0.8  # seconds of silence between two utterances
SPHINX_PAD = 0.1  # seconds of silence that it likes around one
PHRASE_GAP = 0.6  # seconds between words that begin a new segment of a draft

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Told:
    """What one engine made of the speech."""

    engine: str
    language: str
    segments: list[Segment]
    draft: bool = False
    device: str = "cpu"
    facts: dict[str, Any] = field(default_factory=dict)


def run(work: Work) -> StageResult:
    """Leave `transcript.json`. Without speech it is empty, and no engine is asked."""
    options = work.options
    assert isinstance(options, TranscribeOptions)
    with open(work.artefact(SOUND_FACTS), "rb") as file:
        sound = msgspec.json.decode(file.read(), type=Sound)
    with open(work.artefact(SPEECH), "rb") as file:
        spans = msgspec.json.decode(file.read(), type=Speech).spans
    told, missing = Told(engine="none", language="", segments=[]), None
    if spans:
        told, missing = _first_that_can(work, options, spans, sound.seconds)
    segments = spoken_only(told.segments, spans)
    transcript = Transcript(
        engine=told.engine, draft=told.draft, language=told.language,
        fallback=missing.reason if missing else "",
        seconds=sound.seconds, segments=tuple(segments),
    )  # fmt: skip
    target = work.artefact(TRANSCRIPT)
    write_whole(target, msgspec.json.encode(transcript))
    facts = {
        "language": told.language,
        "segments": len(segments),
        "words": sum(len(segment.text.split()) for segment in segments),
        "speech_seconds": round(sum(span.seconds for span in spans), 3),
        "audio_seconds": round(sound.seconds, 3),
    }
    return StageResult(
        engine=told.engine, device=told.device, fallback=str(missing or ""),
        facts=facts | told.facts, artefacts=(target,),
    )  # fmt: skip


def _first_that_can(
    work: Work, options: TranscribeOptions, spans: Sequence[Span], seconds: float
) -> tuple[Told, EngineMissing | None]:
    """The text, and why the main engine did not make it (None if it did or was not asked)."""
    if options.engine == "openai-whisper":
        return _with_whisper(work, options, spans), None
    if options.engine == "pocketsphinx":
        return _with_sphinx(work, options, spans, seconds), None
    try:
        return _with_whisper(work, options, spans), None
    except EngineMissing as error:
        missing = EngineMissing(error.reason, error.hint)  # its frames would keep the model alive
    try:
        return _with_sphinx(work, options, spans, seconds), missing
    except EngineMissing as error:
        raise EngineMissing(f"{missing.reason}; {error.reason}", missing.hint) from error


def _with_whisper(work: Work, options: TranscribeOptions, spans: Sequence[Span]) -> Told:
    order = work.order
    located = openai_whisper.locate(
        options.model, device=order.device, models_dir=order.models, offline=order.offline,
        turn=lambda: work.beat(None),
    )  # fmt: skip
    name = f"Whisper {located.name} on {located.device} ({located.size} B, {located.mtime_ns})"
    with work.lease(name, lambda: openai_whisper.load(located)) as loaded:
        return _hear_all(work, options, spans, loaded)


def _hear_all(
    work: Work,
    options: TranscribeOptions,
    spans: Sequence[Span],
    loaded: openai_whisper.Loaded,
) -> Told:
    chunks = pack(spans, WHISPER_CHUNK)
    beam = 1 if work.frugal else options.beam
    planned = work.choose_batch(
        options.batch,
        Load(
            model=loaded.name, dtype=loaded.dtype, device=loaded.device,
            versions=openai_whisper.version(), seconds=WHISPER_CHUNK,
        ),
    )  # fmt: skip
    language = "" if options.language == "auto" else options.language

    def hear(now: Sequence[Span], done: int) -> list[openai_whisper.Heard]:
        nonlocal language
        ask = openai_whisper.Ask(
            language=language, task=options.task, prompt=options.prompt, beam=beam
        )
        sounds = [_floats(_pcm(work, chunk)) for chunk in now]
        heard = openai_whisper.hear(loaded, sounds, ask, lambda: work.beat(done / len(chunks)))
        language = heard[0].language  # what the first batch found out holds for the others
        return heard

    heard, batch = in_batches(chunks, planned, hear)
    return Told(
        engine=f"{openai_whisper.version()} ({loaded.name})", language=language,
        device=loaded.device,
        segments=[
            moved(segment, chunk)
            for chunk, one in zip(chunks, heard, strict=True)
            for segment in one.segments
        ],
        facts={
            "chunks": len(chunks), "batch": batch, "redecoded": sum(one.again for one in heard),
        },
    )  # fmt: skip


def _with_sphinx(
    work: Work, options: TranscribeOptions, spans: Sequence[Span], seconds: float
) -> Told:
    sphinx.check(options.language, options.task)
    recogniser = sphinx.Recogniser()
    chunks = pack(spans, SPHINX_CHUNK, SPHINX_PAUSE)
    segments: list[Segment] = []
    for number, chunk in enumerate(chunks):
        turn = functools.partial(work.beat, number / len(chunks))
        start = max(0.0, chunk.start - SPHINX_PAD)
        wider = Span(start=start, end=min(chunk.end + SPHINX_PAD, seconds))
        words = recogniser.words(_pcm(work, wider), turn)
        segments += (moved(segment, wider) for segment in phrased(words))
    return Told(
        engine=f"{sphinx.version()} (draft)", language=sphinx.LANGUAGE, segments=segments,
        draft=True, facts={"chunks": len(chunks), "batch": 1, "redecoded": 0},
    )  # fmt: skip


def _pcm(work: Work, chunk: Span) -> bytes:
    first = round(chunk.start * RATE)
    return read_pcm(work.artefact(SOUND), first, round(chunk.end * RATE) - first)


def _floats(pcm: bytes) -> openai_whisper.Floats:
    return np.frombuffer(pcm, "<i2").astype(np.float32) / 32768.0


def in_batches(
    chunks: Sequence[Span], batch: int, hear: Callable[[Sequence[Span], int], list[T]]
) -> tuple[list[T], int]:
    """What `hear` makes of all chunks, some at a time, and how many that were in the end.

    `hear` gets the chunks of a batch and how many are done. When memory runs out the batch goes
    down to a quarter; NoMemory if not even one chunk fits.
    """
    heard: list[T] = []
    while len(heard) < len(chunks):
        try:
            heard += hear(chunks[len(heard) : len(heard) + batch], len(heard))
        except NoMemory:
            if batch == 1:
                raise
            batch = max(1, batch // 4)
    return heard, batch


def pack(spans: Sequence[Span], limit: float, pause: float = math.inf) -> list[Span]:
    """Stretches of the recording that hold all spans, each of at most `limit` seconds.

    A silence longer than `pause` seconds begins a new one. Any other silence stays inside, so that
    times in a stretch are times in the recording less its start. A span longer than the limit is
    cut into equal parts.
    """
    chunks: list[Span] = []
    for span in spans:
        parts = max(1, math.ceil(span.seconds / limit))
        edges = [span.start + span.seconds * part / parts for part in range(parts)] + [span.end]
        for start, end in itertools.pairwise(edges):
            last = chunks[-1] if chunks else None
            if last and end - last.start <= limit and start - last.end <= pause:
                chunks[-1] = Span(start=last.start, end=end)
            else:
                chunks.append(Span(start=start, end=end))
    return chunks


def phrased(words: Sequence[Word]) -> list[Segment]:
    """Words as segments: a new one after every pause."""
    groups: list[list[Word]] = []
    for word in words:
        if not groups or word.start - groups[-1][-1].end > PHRASE_GAP:
            groups.append([])
        groups[-1].append(word)
    return [
        Segment(
            start=group[0].start, end=group[-1].end,
            text=" ".join(word.text for word in group), words=tuple(group),
        )
        for group in groups
    ]  # fmt: skip


def moved(segment: Segment, chunk: Span) -> Segment:
    """A segment with times from a chunk's start, on the recording's clock and inside the chunk."""

    def there(time: float) -> float:
        return round(min(chunk.start + time, chunk.end), 3)

    return Segment(
        start=there(segment.start),
        end=there(segment.end),
        text=segment.text,
        words=tuple(
            msgspec.structs.replace(word, start=there(word.start), end=there(word.end))
            for word in segment.words
        ),
    )


def spoken_only(segments: Sequence[Segment], spans: Sequence[Span]) -> list[Segment]:
    """The segments that overlap speech: a text for silence is invented."""
    ends = [span.end for span in spans]
    kept = []
    for segment in segments:
        number = bisect.bisect_right(ends, segment.start)
        if number < len(spans) and spans[number].start <= segment.end:
            kept.append(segment)
    return kept
