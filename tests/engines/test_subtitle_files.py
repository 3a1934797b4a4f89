"""Subtitle files as players read them."""

import pysubs2
import pytest

from pipeline.core.cues import Cue
from pipeline.engines.subtitle_files import srt_text, vtt_text

CUES = [
    Cue(start=0, end=1500, lines=("one two", "three")),
    Cue(start=3_600_000, end=3_601_000, lines=("four",)),
]


@pytest.mark.parametrize(("kind", "write"), [("srt", srt_text), ("vtt", vtt_text)])
def test_what_is_written_can_be_read(kind: str, write: object) -> None:
    """Times and lines come back as they were."""
    assert callable(write)
    found = pysubs2.SSAFile.from_string(write(CUES), kind)
    assert [(event.start, event.end, event.plaintext) for event in found] == [
        (0, 1500, "one two\nthree"),
        (3_600_000, 3_601_000, "four"),
    ]


def test_no_cues_are_still_a_file() -> None:
    """Without speech the .vtt has its header and neither file is empty."""
    assert srt_text([]) == "\n"
    assert vtt_text([]).startswith("WEBVTT\n")


def test_hostile_text_stays_text() -> None:
    """Tags, arrows, styling and entities neither vanish nor make a cue of their own."""
    cues = [Cue(start=0, end=900, lines=("a <b>&amp; {\\p1}x", "1 --> 2"))]
    vtt = vtt_text(cues, note="<x> --> y\n\n00:00:00.000 --> 00:00:09.000\nboo")
    assert "a &lt;b&gt;&amp;amp; (/p1)x" in vtt
    assert vtt.count("-->") == 1
    assert "1 --&gt; 2" in vtt
    srt = srt_text(cues)
    assert srt.count("-->") == 1
    assert "a <b>&amp; (/p1)x\n1 -> 2" in srt


def test_the_note_is_no_cue() -> None:
    """A note stands in a block of its own after the header."""
    text = vtt_text(CUES, note="DRAFT by hand")
    assert text.startswith("WEBVTT\n\nNOTE DRAFT by hand\n\n1\n00:00:00.000 --> ")
