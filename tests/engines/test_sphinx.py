"""The draft engine on real speech."""

import itertools

import pytest

from pipeline.core.errors import Cancelled, EngineMissing
from pipeline.engines import sphinx
from tests.fakes.speech import SENTENCES, speech


@pytest.fixture(scope="module")
def recogniser() -> sphinx.Recogniser:
    return sphinx.Recogniser()


def pcm(start: float, end: float) -> bytes:
    sound = speech()[int(start * 16_000) : int(end * 16_000)]
    return (sound * 32767).astype("<i2").tobytes()


def test_words_come_with_times_inside_the_sound(recogniser: sphinx.Recogniser) -> None:
    """Words are real, in order, and lie where the sentence lies."""
    start, end = SENTENCES[2]
    turns: list[None] = []
    words = recogniser.words(pcm(start - 0.3, end + 0.2), lambda: turns.append(None))
    assert len({"what", "can", "you", "do", "for", "your"} & {word.text for word in words}) >= 3
    assert all(0.1 <= word.start < word.end <= end - start + 0.5 for word in words)
    assert all(one.end <= two.start for one, two in itertools.pairwise(words))
    assert all(word.confidence is not None and 0 <= word.confidence <= 1 for word in words)
    assert len(turns) >= 5


@pytest.mark.parametrize("sound", [b"", b"\0\0", b"\0\0" * 16_000])
def test_silence_has_no_words(recogniser: sphinx.Recogniser, sound: bytes) -> None:
    """Nothing, next to nothing and digital silence give no word and no error."""
    assert recogniser.words(sound, lambda: None) == []


def test_a_cancel_ends_the_work_and_leaves_the_decoder_usable(
    recogniser: sphinx.Recogniser,
) -> None:
    """What `turn` raises comes through, and the next stretch is heard as ever."""

    def stop() -> None:
        raise Cancelled("asked")

    with pytest.raises(Cancelled):
        recogniser.words(pcm(*SENTENCES[0]), stop)
    assert recogniser.words(pcm(*SENTENCES[1]), lambda: None)


def test_it_says_what_it_can_not_do() -> None:
    """Another language or a translation is refused with a next step."""
    sphinx.check("auto", "transcribe")
    sphinx.check("en", "translate")
    with pytest.raises(EngineMissing, match="only knows English") as found:
        sphinx.check("de", "transcribe")
    assert found.value.hint
    with pytest.raises(EngineMissing, match="translate"):
        sphinx.check("auto", "translate")
