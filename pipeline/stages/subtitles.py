"""Writes a transcript as .srt, .vtt, .txt and .json."""

import msgspec

from pipeline.core.cues import make_cues
from pipeline.core.files import write_whole
from pipeline.core.recipes import TranscribeOptions
from pipeline.core.speech import TRANSCRIPT, Segment, Transcript
from pipeline.core.stage import StageResult, Work
from pipeline.core.text import shown
from pipeline.engines import subtitle_files

LANE = "cpu"
SCHEMA = 1  # of the .json; a number for whoever reads it by program
PARAGRAPH_S = 2.0  # a longer pause begins a new paragraph
NOTHING = "[no speech found]"


class TranscriptFile(msgspec.Struct, frozen=True, kw_only=True):
    """The .json in the outbox."""

    schema: int
    source: str
    engine: str
    draft: bool
    fallback: str
    language: str
    seconds: float
    segments: tuple[Segment, ...]


def run(work: Work) -> StageResult:
    """Leave the four files; without speech they are valid and say so."""
    options = work.options
    assert isinstance(options, TranscribeOptions)
    with open(work.artefact(TRANSCRIPT), "rb") as file:
        told = msgspec.json.decode(file.read(), type=Transcript)
    work.beat(None)
    cues = make_cues(
        told.segments, told.seconds, line_chars=options.line_chars, line_count=options.line_count
    )
    texts = {
        ".srt": subtitle_files.srt_text(cues),
        ".vtt": subtitle_files.vtt_text(cues, note=draft_note(told)),
        ".txt": readable(told),
        ".json": as_json(told, shown(work.order.name)),
    }
    for suffix, text in texts.items():
        write_whole(work.output(suffix), text.encode())
    return StageResult(
        engine=subtitle_files.VERSION,
        facts={"cues": len(cues)},
        outputs=tuple(work.output(suffix) for suffix in texts),
    )


def draft_note(told: Transcript) -> str:
    """What a reader of a draft must know; empty if it is none."""
    if not told.draft:
        return ""
    because = f" because the main engine could not run: {told.fallback}" if told.fallback else ""
    return f"DRAFT by {told.engine}{because}. Expect wrong words."


def readable(told: Transcript) -> str:
    """The text for people: a paragraph for each stretch without a long pause."""
    paragraphs = [f"[{draft_note(told)}]"] if told.draft else []
    end = float("-inf")
    for segment in told.segments:
        if segment.start - end > PARAGRAPH_S:
            paragraphs.append(segment.text)
        else:
            paragraphs[-1] += f" {segment.text}"
        end = segment.end
    return "\n\n".join(paragraphs if told.segments else [*paragraphs, NOTHING]) + "\n"


def as_json(told: Transcript, source: str) -> str:
    """The transcript for programs, with the times of words where the engine knows them."""
    fields = {name: getattr(told, name) for name in told.__struct_fields__}
    return msgspec.json.format(
        msgspec.json.encode(TranscriptFile(schema=SCHEMA, source=source, **fields)), indent=1
    ).decode()
