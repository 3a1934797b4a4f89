"""Finds where somebody speaks, so that no engine invents words for silence."""

from collections.abc import Sequence

import msgspec
import numpy as np

from pipeline.core.errors import Transient
from pipeline.core.files import write_whole
from pipeline.core.recipes import TranscribeOptions
from pipeline.core.speech import RATE, SOUND, SOUND_FACTS, SPEECH, Sound, Span, Speech, read_pcm
from pipeline.core.stage import StageResult, Work
from pipeline.engines import silero

LANE = "cpu"
BLOCK = 512 * silero.FRAME  # samples, 16 s

LOWER_BY = 0.15  # speech ends when the probability falls this far below the threshold
MIN_SPEECH = RATE // 4  # samples; shorter ones are coughs and clicks
MIN_SILENCE = RATE // 5  # samples; shorter ones lie inside a sentence
PAD = RATE // 10  # samples added on both sides: soft consonants begin before the voice
LONGEST = 28 * RATE  # samples; a longer run is cut where speech is least likely

Run = tuple[int, int]  # first sample and the one after the last


def run(work: Work) -> StageResult:
    """Leave `speech.json`, the spans with speech; memory does not grow with the recording."""
    options = work.options
    assert isinstance(options, TranscribeOptions)
    with open(work.artefact(SOUND_FACTS), "rb") as file:
        sound = msgspec.json.decode(file.read(), type=Sound)
    likely = _probabilities(work, sound)
    spans = find_speech(likely, options.vad_threshold, sound.samples)
    speaking = sum(span.seconds for span in spans)
    target = work.artefact(SPEECH)
    speech = Speech(spans=spans, threshold=options.vad_threshold)
    write_whole(target, msgspec.json.encode(speech))
    return StageResult(
        engine=silero.version(),
        facts={
            "speech_seconds": round(speaking, 3),
            "spans": len(spans),
            "share": round(speaking / sound.seconds, 4) if sound.seconds else 0.0,
        },
        artefacts=(target,),
    )


def _probabilities(work: Work, sound: Sound) -> list[float]:
    ear = silero.Ear()
    likely: list[float] = []
    for first in range(0, sound.samples, BLOCK):
        count = min(BLOCK, sound.samples - first)
        pcm = np.frombuffer(read_pcm(work.artefact(SOUND), first, count), "<i2")
        if len(pcm) < count:
            raise Transient("the decoded sound in the scratch folder is cut short", "try again")
        likely += ear.feed(pcm.astype(np.float32) / 32768.0).tolist()
        work.beat((first + count) / sound.samples)
    return likely


def find_speech(likely: Sequence[float], threshold: float, samples: int) -> tuple[Span, ...]:
    """Spans with speech, in order and apart, from one probability for each 512 samples."""
    runs = [
        piece
        for found in loud_runs(likely, threshold, samples)
        for piece in cut_long(found, likely, LONGEST)
    ]
    return tuple(
        Span(start=start / RATE, end=end / RATE) for start, end in padded(runs, PAD, samples)
    )


def loud_runs(likely: Sequence[float], threshold: float, samples: int) -> list[Run]:
    """Hysteresis: speech begins at the threshold and ends after 0.2 s below a lower one."""
    lower = max(threshold - LOWER_BY, 0.01)
    runs: list[Run] = []
    start: int | None = None
    quiet: int | None = None
    for frame, chance in enumerate(likely):
        here = frame * silero.FRAME
        if chance >= threshold:
            quiet = None
            start = here if start is None else start
        elif chance < lower and start is not None:
            quiet = here if quiet is None else quiet
            if here - quiet >= MIN_SILENCE:
                if quiet - start > MIN_SPEECH:
                    runs.append((start, quiet))
                start = quiet = None
    if start is not None and samples - start > MIN_SPEECH:
        runs.append((start, samples))
    return runs


def cut_long(found: Run, likely: Sequence[float], longest: int) -> list[Run]:
    """The run in pieces of at most `longest` samples, cut where speech is least likely."""
    start, end = found
    pieces: list[Run] = []
    while end - start > longest:
        frames = range(
            (start + longest // 2) // silero.FRAME + 1, (start + longest) // silero.FRAME
        )
        cut = min(frames, key=lambda frame: likely[frame]) * silero.FRAME
        pieces.append((start, cut))
        start = cut
    return [*pieces, (start, end)]


def padded(runs: Sequence[Run], pad: int, samples: int) -> list[Run]:
    """Each run a little wider, inside the recording; neighbours share a gap that is too small."""
    wider: list[Run] = []
    for number, (start, end) in enumerate(runs):
        before = start - runs[number - 1][1] if number else 2 * start
        after = runs[number + 1][0] - end if number + 1 < len(runs) else 2 * (samples - end)
        wider.append((start - min(pad, before // 2), end + min(pad, after // 2)))
    return wider
