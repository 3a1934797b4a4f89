"""PocketSphinx with its packaged English model: words for a draft when nothing better is there.

Its words are often wrong: whoever shows them must say that they are a draft.
"""

import importlib.metadata
from collections.abc import Callable
from typing import Any

from pipeline.core.errors import EngineMissing
from pipeline.core.speech import RATE, SAMPLE_BYTES, Word

LANGUAGE = "en"
BLOCK = RATE // 2 * SAMPLE_BYTES  # bytes; the library holds Python's lock while it works on one
FRAMES = 100  # a second, the unit of its word times
SHORTEST = RATE // 10 * SAMPLE_BYTES  # bytes; less holds no word, and nothing at all is refused
INSTALL = "pip install 'penstock[asr]'"
NOT_WORDS = ("<", "[", "+")  # silence, noise and breath


def version() -> str:
    """Name and version, as reports show them."""
    return f"pocketsphinx {importlib.metadata.version('pocketsphinx')}"


def check(language: str, task: str) -> None:
    """EngineMissing if this engine can not do what is asked: English to English only."""
    if language not in ("auto", LANGUAGE):
        raise EngineMissing(
            "the draft engine only knows English",
            "get the weights of a Whisper model for other languages",
        )
    if task == "translate" and language != LANGUAGE:
        raise EngineMissing("the draft engine can not translate", "get a Whisper model's weights")


class Recogniser:
    """The decoder, ready for one stretch of speech after the other. About 150 MB."""

    def __init__(self) -> None:
        try:
            import pocketsphinx
        except ImportError as error:
            raise EngineMissing(f"pocketsphinx can not be loaded: {error}", INSTALL) from error
        self._decoder: Any = pocketsphinx.Decoder(loglevel="FATAL")
        # A search for one rare word costs little; it only serves to measure the loudness.
        self._meter: Any = pocketsphinx.Decoder(
            loglevel="FATAL", lm=None, keyphrase="forward", kws_threshold=0.1
        )

    def words(self, pcm: bytes, turn: Callable[[], None]) -> list[Word]:
        """Words with times from the start of the stretch (16 kHz mono, 16 bit, up to 30 s).

        `turn` is called every half second of sound; what it raises ends the work.
        """
        if len(pcm) < SHORTEST:
            return []
        decoder = self._decoder
        decoder.set_cmn(self._loudness(pcm))
        decoder.start_utt()
        try:
            for first in range(0, len(pcm), BLOCK):
                turn()
                decoder.process_raw(pcm[first : first + BLOCK])
        finally:
            decoder.end_utt()
        return [_word(part) for part in decoder.seg() or () if part.word[0] not in NOT_WORDS]

    def _loudness(self, pcm: bytes) -> str:
        """The mean spectrum of the whole stretch.

        Without it the decoder begins with that of some other recording, and hears much less.
        """
        self._meter.start_utt()
        self._meter.process_raw(pcm, no_search=True, full_utt=True)
        mean: str = self._meter.get_cmn(False)
        self._meter.end_utt()
        return mean


def _word(part: Any) -> Word:
    return Word(
        start=part.start_frame / FRAMES,
        end=(part.end_frame + 1) / FRAMES,
        text=part.word.partition("(")[0],  # «and(2)» is the second way to say «and»
        confidence=round(min(1.0, max(0.0, part.prob)), 4),
    )
