"""A small speech recording, a Whisper model that knows nothing, and jobs for the speech stages.

`speech.opus` was made with espeak-ng (voice en-us, -s 140) and ffmpeg: three sentences with 1.5 s
of faint pink noise before, between and after them.
"""

import dataclasses
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.contract import Order
from pipeline.core.recipes import RECIPES, read_options
from pipeline.core.stage import Work
from pipeline.engines.pyav import AudioReader

SPEECH = Path(__file__).parent.parent / "media_files" / "speech.opus"
SENTENCES = ((1.50, 4.99), (6.49, 8.77), (10.27, 12.60))  # seconds, as the parts were joined


def speech() -> NDArray[np.float32]:
    """The recording as 16 kHz mono."""
    with (
        open(SPEECH, "rb", buffering=0) as file,
        AudioReader(file, rate=16_000, channels=1) as blocks,
    ):
        return np.concatenate([block[:, 0] for block in blocks])


def save_tiny_whisper(path: Path, *, multilingual: bool = True) -> Path:
    """A Whisper model of one thin layer with random weights, in the format of the real ones."""
    import torch
    from whisper.model import ModelDimensions, Whisper
    from whisper.tokenizer import get_encoding

    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        # It forgets to close its file; what it read is kept for the next call.
        get_encoding(name="multilingual" if multilingual else "gpt2", num_languages=99)
    torch.set_num_threads(1)  # for so thin a model more threads only wait for each other
    torch.manual_seed(1)
    dims = ModelDimensions(
        n_mels=80, n_audio_ctx=1500, n_audio_state=64, n_audio_head=1, n_audio_layer=1,
        n_vocab=51865 if multilingual else 51864,
        n_text_ctx=448, n_text_state=64, n_text_head=1, n_text_layer=1,
    )  # fmt: skip
    model = Whisper(dims)
    for weights in model.parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, 0.0, 0.05)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.half() for key, value in model.state_dict().items()}
    torch.save({"dims": dataclasses.asdict(dims), "model_state_dict": state}, path)
    return path


def speech_order(
    room: bytes, source: Path = SPEECH, *, models: bytes = b"", **options: object
) -> Order:
    """An order to transcribe a copy of a file, with empty scratch and staging folders."""
    folders = [os.path.join(room, name) for name in (b"in", b"scratch", b"staging")]
    for folder in folders:
        os.makedirs(folder, exist_ok=True)
    name = os.fsencode(source.name)
    if not os.path.exists(os.path.join(folders[0], name)):
        shutil.copy(os.fsencode(source), os.path.join(folders[0], name))
    return Order(
        job=1, attempt=1, recipe="transcribe", root=folders[0], name=name, mark="1-1-1",
        stem=b"talk", scratch=folders[1], staging=folders[2], options=options, device="cpu",
        models=models or folders[0], offline=True,
    )  # fmt: skip


def work_on(order: Order, beat: Callable[[float | None], None] = lambda _part: None) -> Work:
    """The order as a stage sees it."""
    options = read_options(RECIPES[order.recipe], order.options)
    return Work(order=order, options=options, beat=beat)
