"""The texts that the last stage writes."""

import json
import os

import msgspec
import pysubs2

from pipeline.core.files import write_whole
from pipeline.core.speech import TRANSCRIPT, Segment, Transcript, Word
from pipeline.stages import subtitles
from tests.fakes.speech import speech_order, work_on

TOLD = Transcript(
    engine="openai-whisper 1 (small)", draft=False, fallback="", language="en", seconds=20.0,
    segments=(
        Segment(start=0.0, end=2.0, text="Hello <there>."),
        Segment(start=2.5, end=4.0, text="General."),
        Segment(
            start=9.0, end=10.0, text="Bye",
            words=(Word(start=9.0, end=10.0, text="Bye", confidence=0.5),),
        ),
    ),
)  # fmt: skip


def test_paragraphs_follow_pauses() -> None:
    """A pause of more than 2 s begins a new paragraph."""
    assert subtitles.readable(TOLD) == "Hello <there>. General.\n\nBye\n"


def test_a_draft_says_so_first() -> None:
    """The first line is the label, with the reason; silence in a draft is still said."""
    draft = msgspec.structs.replace(TOLD, draft=True, fallback="no weights")
    assert subtitles.readable(draft).startswith("[DRAFT by openai-whisper 1 (small) because the")
    empty = msgspec.structs.replace(draft, segments=())
    assert subtitles.readable(empty).endswith("]\n\n[no speech found]\n")


def test_the_four_files_agree(room: bytes) -> None:
    """Subtitles read back as the transcript's text, the JSON holds schema, name and words."""
    work = work_on(speech_order(room))
    write_whole(work.artefact(TRANSCRIPT), msgspec.json.encode(TOLD))
    result = subtitles.run(work)
    assert [os.path.basename(path) for path in result.outputs] == [
        b"talk.srt", b"talk.vtt", b"talk.txt", b"talk.json",
    ]  # fmt: skip
    assert result.facts == {"cues": 3}
    for path in result.outputs[:2]:
        with open(path, encoding="utf-8") as file:
            cues = pysubs2.SSAFile.from_string(file.read(), keep_unknown_html_tags=True)
        assert [(cue.start, cue.end) for cue in cues] == [(0, 2000), (2500, 4000), (9000, 10_000)]
    with open(result.outputs[3], encoding="utf-8") as file:
        found = json.load(file)
    assert found["schema"] == 1
    assert found["source"] == "speech.opus"
    assert found["segments"][2]["words"] == [
        {"start": 9.0, "end": 10.0, "text": "Bye", "confidence": 0.5}
    ]


def test_a_hostile_name_is_harmless_in_the_json(room: bytes) -> None:
    """A name that is no text is shown escaped, and the JSON stays valid."""
    order = msgspec.structs.replace(speech_order(room), name=b"a\n\xff.opus")
    work = work_on(order)
    write_whole(work.artefact(TRANSCRIPT), msgspec.json.encode(TOLD))
    result = subtitles.run(work)
    with open(result.outputs[3], encoding="utf-8") as file:
        assert json.load(file)["source"] == "a\\n\\udcff.opus"
