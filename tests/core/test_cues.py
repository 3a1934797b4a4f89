"""Subtitle cues from transcripts, for any transcript."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.cues import SHORTEST_MS, Cue, make_cues, timed_words
from pipeline.core.speech import Segment, Word

TEXT = st.text(st.sampled_from("abcdé字 .?!<>-\n\t\x00\u2028"), max_size=300)


def cues(*segments: Segment, seconds: float = 60.0) -> list[Cue]:
    return make_cues(segments, seconds, line_chars=42, line_count=2)


def segment(start: float, end: float, text: str) -> Segment:
    return Segment(start=start, end=end, text=text)


@st.composite
def some_segments(draw: st.DrawFn) -> list[Segment]:
    found = []
    for _number in range(draw(st.integers(0, 8))):
        start = draw(st.floats(0.0, 20.0))
        end = start + draw(st.floats(0.0, 30.0))
        found.append(segment(start, end, draw(TEXT)))
    return found


@given(some_segments(), st.floats(0.5, 30.0), st.integers(16, 60), st.integers(1, 3))
def test_cues_keep_the_rules(
    segments: list[Segment], seconds: float, line_chars: int, line_count: int
) -> None:
    """No overlap, inside the recording, in order, at most 7 s, lines that fit, no word lost."""
    found = make_cues(segments, seconds, line_chars=line_chars, line_count=line_count)
    whole = int(seconds * 1000)
    assert all(0 <= cue.start < cue.end <= max(whole, len(found)) for cue in found)
    assert all(one.end <= two.start for one, two in itertools.pairwise(found))
    assert all(cue.end - cue.start <= 7000 for cue in found)
    assert all(1 <= len(cue.lines) <= line_count for cue in found)
    assert all(1 <= len(line) <= line_chars for cue in found for line in cue.lines)
    shown = "".join("".join(cue.lines) for cue in found)
    said = "".join(part.text for part in sorted(segments, key=lambda part: part.start))
    assert "".join(shown.split()) == "".join(said.replace("\0", " ").split())


def test_a_short_sentence_is_one_cue() -> None:
    """The times are the segment's own."""
    assert cues(segment(1.0, 3.5, "Hello there.")) == [
        Cue(start=1000, end=3500, lines=("Hello there.",))
    ]


def test_lines_are_about_as_long_as_each_other() -> None:
    """A text that needs two lines is broken near its middle."""
    text = "this is an example video for your convenience and"
    assert cues(segment(0, 4, text))[0].lines == (
        "this is an example video",
        "for your convenience and",
    )


def test_a_sentence_ends_a_cue() -> None:
    """The next sentence begins a cue of its own, at its share of the time."""
    found = cues(segment(0.0, 4.0, "One two. Six ten."))
    assert [cue.lines for cue in found] == [("One two.",), ("Six ten.",)]
    assert found[1].start == 2000


def test_a_flash_is_shown_long_enough() -> None:
    """A cue shorter than 0.8 s stays while nothing else follows."""
    found = cues(segment(1.0, 1.1, "Yes"), segment(5.0, 5.1, "No"), segment(5.5, 6.5, "But"))
    assert [(cue.start, cue.end) for cue in found] == [
        (1000, 1000 + SHORTEST_MS),
        (5000, 5500),
        (5500, 6500),
    ]


def test_times_of_words_are_used() -> None:
    """Where the engine knows when each word was said, a cue ends with its last word."""
    words = (
        Word(start=0.0, end=0.5, text="Stop."),
        Word(start=6.0, end=7.0, text="Go"),
    )
    found = cues(Segment(start=0.0, end=9.0, text="Stop. Go", words=words))
    assert [(cue.start, cue.end, cue.lines) for cue in found] == [
        (0, 800, ("Stop.",)),
        (6000, 7000, ("Go",)),
    ]


def test_a_long_segment_is_split_in_time() -> None:
    """Few words over a long time do not stand on the screen for more than 7 s."""
    found = cues(segment(0.0, 20.0, "one two three four"))
    assert len(found) >= 3
    assert found[-1].end <= 20_000


def test_too_wide_words_are_cut() -> None:
    """A script without spaces still fits the line."""
    words = timed_words(segment(0.0, 10.0, "字" * 100), 42)
    assert [len(word.text) for word in words] == [42, 42, 16]
    assert words[-1].end == 10.0
