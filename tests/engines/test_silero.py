"""Silero VAD as a stream, on real speech."""

import subprocess
import sys

import numpy as np
import pytest

from pipeline.engines import silero
from tests.fakes.speech import SENTENCES, speech


def test_a_stream_hears_what_the_whole_file_says() -> None:
    """Blocks of any size give exactly the probabilities of one run over everything."""
    sound = speech()
    whole = silero.Ear().feed(sound)
    for frames in (1, 7, 100):
        ear = silero.Ear()
        size = frames * silero.FRAME
        parts = [ear.feed(sound[at : at + size]) for at in range(0, len(sound), size)]
        assert np.array_equal(np.concatenate(parts), whole)


def test_sentences_are_likely_speech_and_pauses_are_not() -> None:
    """The middle of every sentence is above one half, the middle of every pause below."""
    likely = silero.Ear().feed(speech())

    def at(second: float) -> float:
        return float(likely[int(second * 16_000 / silero.FRAME)])

    assert all(at((start + end) / 2) > 0.5 for start, end in SENTENCES)
    assert all(at(second) < 0.5 for second in (0.7, 5.7, 9.5, 13.5))


@pytest.mark.parametrize("samples", [0, 1, 511, 512, 513])
def test_every_begun_frame_has_a_probability(samples: int) -> None:
    """The last frame may be short; no samples give no probability."""
    likely = silero.Ear().feed(np.zeros(samples, np.float32))
    assert len(likely) == -(-samples // silero.FRAME)


def test_neither_torch_nor_the_package_is_imported() -> None:
    """Using the detector leaves torch and its thread settings alone."""
    code = (
        "import sys, numpy; from pipeline.engines import silero;"
        "silero.Ear().feed(numpy.zeros(512, numpy.float32)); silero.version();"
        "assert not {'torch', 'silero_vad'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
