"""Speech values: reading decoded sound, phrases from tokens, loops."""

import os
import string

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.speech import phrases, read_pcm, without_loops

BEGIN = 1000  # the first timestamp token


def test_raw_sound_is_read_by_samples(room: bytes) -> None:
    """A piece, the rest and nothing after the end; an odd last byte is no sample."""
    path = os.path.join(room, b"sound")
    with open(path, "wb") as file:
        file.write(b"aabbccd")
    assert read_pcm(path, 1, 1) == b"bb"
    assert read_pcm(path, 1, 9) == b"bbcc"
    assert read_pcm(path, 9, 1) == b""


def test_phrases_lie_between_timestamps() -> None:
    """Pairs of times make phrases; text without an end time lasts to the end of the sound."""
    tokens = [BEGIN, 1, 2, BEGIN + 50, BEGIN + 60, 3, BEGIN + 100, BEGIN + 100, 4]
    assert phrases(tokens, BEGIN, 0.02, 5.0) == [
        (0.0, 1.0, [1, 2]),
        (1.2, 2.0, [3]),
        (2.0, 5.0, [4]),
    ]


def test_what_is_heard_after_the_end_is_left_out() -> None:
    """A phrase that starts in the padding is invented; one that only ends there is cut."""
    tokens = [BEGIN, 1, BEGIN + 200, BEGIN + 200, 2, BEGIN + 300]
    assert phrases(tokens, BEGIN, 0.02, 3.0) == [(0.0, 3.0, [1])]


@given(
    st.lists(st.integers(0, BEGIN + 1500), max_size=60),
    st.floats(0.01, 30.0),
)
def test_phrases_stay_inside_the_sound(tokens: list[int], seconds: float) -> None:
    """Whatever a model writes, phrases lie inside the sound and text is only its own."""
    found = phrases(tokens, BEGIN, 0.02, seconds)
    assert all(0.0 <= start <= end <= seconds for start, end, _text in found)
    text = [token for _start, _end, part in found for token in part]
    assert all(token < BEGIN for token in text)
    assert len(text) <= sum(token < BEGIN for token in tokens)


def test_loops_are_said_once() -> None:
    """Four times the same is a loop, in words and in scripts without spaces; three times is not."""
    assert without_loops("we go on and on and on and on and on home") == "we go on and on home"
    assert without_loops("so it goes " * 9) == "so it goes "
    assert without_loops("ありがとう" * 20) == "ありがとう"
    assert without_loops("no no no, said he") == "no no no, said he"


@given(st.text(string.ascii_lowercase[:3] + " ", max_size=200))
def test_a_text_without_loops_is_no_longer(text: str) -> None:
    """Nothing is added, the beginning stays."""
    short = without_loops(text)
    assert len(short) <= len(text)
    assert short[:1] == text[:1]
