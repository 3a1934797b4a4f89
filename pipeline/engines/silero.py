"""Silero VAD through onnxruntime: how likely somebody speaks, frame by frame, as a stream.

The weights come with the silero-vad package. That package itself is never imported: doing so
pulls in torch and sets torch's threads to one for the whole process.
"""

import functools
import importlib.metadata
import importlib.util
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import EngineMissing

FRAME = 512  # samples at 16 kHz for each probability
CONTEXT = 64  # samples of the frame before that the model also sees
MODEL = os.path.join("data", "silero_vad_16k_sequence.onnx")
INSTALL = "pip install 'penstock[asr]'"

Floats = NDArray[np.float32]


def version() -> str:
    """The package's version, as reports show it."""
    return f"silero-vad {importlib.metadata.version('silero-vad')}"


def weights() -> str:
    """Path of the packaged model; EngineMissing if the package or the file is not there."""
    found = importlib.util.find_spec("silero_vad")
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = os.path.join(folder, MODEL)
        if os.path.isfile(path):
            return path
    raise EngineMissing("the speech detector's package silero-vad is not installed", INSTALL)


@functools.cache
def _session() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineMissing(f"onnxruntime can not be loaded: {error}", INSTALL) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the model is small: more threads only wait for each other
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(weights(), options, providers=["CPUExecutionProvider"])


class Ear:
    """Hears one recording from its start; every recording needs an Ear of its own."""

    def __init__(self) -> None:
        self._run = _session().run
        self._hidden = np.zeros((1, 1, 128), np.float32)
        self._cell = np.zeros((1, 1, 128), np.float32)
        self._before = np.zeros(CONTEXT, np.float32)

    def feed(self, samples: Floats) -> Floats:
        """Probabilities, one for each 512 samples (16 kHz mono, -1 to 1).

        Only the last block of a recording may end inside a frame; it is filled with silence.
        Memory grows with the block: half a minute at a time is a good size.
        """
        count = -(-len(samples) // FRAME)
        if not count:
            return np.zeros(0, np.float32)
        frames = np.zeros((count, FRAME), np.float32)
        frames.reshape(-1)[: len(samples)] = samples
        context = np.empty((count, CONTEXT), np.float32)
        context[0] = self._before
        context[1:] = frames[:-1, -CONTEXT:]
        self._before = frames[-1, -CONTEXT:].copy()
        given = {"input": np.hstack((context, frames)), "h": self._hidden, "c": self._cell}
        speaking, self._hidden, self._cell = self._run(["speech_probs", "hn", "cn"], given)
        return np.asarray(speaking, np.float32).reshape(-1)
