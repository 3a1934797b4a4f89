"""openai-whisper: finds, fetches, loads and keeps one model, and hears batches of short sounds.

Weights are looked for as files before anything heavy is imported. A model is loaded with torch's
`weights_only`, so that a .pt file can not run code.
"""

import contextlib
import gc
import importlib.metadata
import math
import os
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import BadInput, EngineMissing, NoMemory
from pipeline.core.speech import RATE, Segment, phrases, without_loops
from pipeline.core.text import shown
from pipeline.core.weights import fetch, first_file

INSTALL = "pip install 'penstock[asr]'"
ALIASES = {"large": "large-v3", "turbo": "large-v3-turbo"}  # how their files are called
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")

LONGEST = 30.0  # seconds that the model hears at once
TOKENS_PER_SECOND = 15  # no language needs more; a runaway item would hold up its whole batch
TOKENS_SPARE = 20
MOST_REPETITIVE = 2.4  # compression ratio: above it the text is a loop
LEAST_LIKELY = -1.0  # mean log probability: below it the text is a guess
SILENT = 0.6  # chance of no speech: above it a guess is no text at all

# What torch and whisper raise for files that are cut short or hold something else.
UNUSABLE = (
    RuntimeError, OSError, EOFError, LookupError, TypeError, ValueError, AttributeError
)  # fmt: skip

Floats = NDArray[np.float32]
Turn = Callable[[], None]


class Located(NamedTuple):
    """A file of weights and where it is to be loaded; equal values mean the same model."""

    path: bytes
    size: int
    mtime_ns: int
    device: str  # "cpu" or "cuda"
    name: str  # as people see it


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model on its device, ready to hear."""

    model: Any  # whisper.Whisper
    name: str  # as people see it
    device: str  # "cpu" or "cuda"

    @property
    def dtype(self) -> str:
        """The numbers that it computes with."""
        return "float16" if self.device == "cuda" else "float32"


@dataclass(frozen=True, kw_only=True)
class Ask:
    """How to hear. `language` is a code, empty to find out; beam 1 is greedy."""

    language: str = ""
    task: str = "transcribe"
    prompt: str = ""
    beam: int = 1
    temperatures: tuple[float, ...] = (0.0, 0.4, 0.8)  # the later ones only for what failed


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What one sound says; times from its own start. `again`: not good at the first try."""

    segments: tuple[Segment, ...]
    language: str
    again: bool


_unfetched: dict[str, str] = {}  # model → why it could not be fetched; not tried again


def version() -> str:
    """Name and version, as reports show them."""
    try:
        return f"openai-whisper {importlib.metadata.version('openai-whisper')}"
    except importlib.metadata.PackageNotFoundError:
        return "openai-whisper"


def find_weights(model: str, models_dir: bytes) -> bytes | None:
    """The file of a model: a path to a .pt (from the models folder on), or NAME.pt in the models
    folder or in Whisper's own cache. None if it is not there. Looks at files only.
    """
    if model.endswith(".pt") or "/" in model:
        path = os.path.join(models_dir, os.fsencode(model))
        if os.path.isfile(path):
            return path
        raise EngineMissing(f"the Whisper model {shown(model)} is not there", "correct its path")
    if not PLAIN_NAME.match(model):
        raise EngineMissing(f"{shown(model)} is no name of a Whisper model")
    name = f"{ALIASES.get(model, model)}.pt".encode()
    return first_file((models_dir, _cache()), name)


def _cache() -> bytes:
    home = os.environb.get(b"XDG_CACHE_HOME") or os.path.expanduser(b"~/.cache")
    return os.path.join(home, b"whisper")


def locate(
    model: str, *, device: str, models_dir: bytes, offline: bool, turn: Turn = lambda: None
) -> Located:
    """The file of a model, fetched if need be, and its device from "auto", "cpu" or "cuda".

    EngineMissing if the package, the weights or the card are not there. `turn` is called now and
    then while weights are fetched.
    """
    path = find_weights(model, models_dir)
    if path is None:
        path = _fetched(model, models_dir or _cache(), offline, turn)
    where = _device(device)
    facts = os.stat(path)
    return Located(
        path=path, size=facts.st_size, mtime_ns=facts.st_mtime_ns, device=where,
        name=shown(os.path.basename(path).removesuffix(b".pt")),
    )  # fmt: skip


def load(located: Located) -> Loaded:
    """Load a model; whoever keeps it decides how long (see gpu/shelf.py).

    EngineMissing if the file is no Whisper model, NoMemory if it does not fit.
    """
    model = _read(located.path, located.device)
    return Loaded(model=model, name=located.name, device=located.device)


def _tidy() -> None:
    gc.collect()
    torch = _torch()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _torch() -> Any:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: its CUDA libraries do not fit
        raise EngineMissing(f"torch can not be loaded: {error}", INSTALL) from error
    return torch


def _whisper() -> Any:
    _torch()
    try:
        import whisper
    except ImportError as error:
        raise EngineMissing(f"openai-whisper can not be loaded: {error}", INSTALL) from error
    return whisper


def _device(wish: str) -> str:
    if wish == "cpu":
        return "cpu"
    if _torch().cuda.is_available():
        return "cuda"
    if wish == "auto":
        return "cpu"
    raise EngineMissing(
        "the card is asked for, but torch sees none", 'set device = "auto", or look at the driver'
    )


def _read(path: bytes, device: str) -> Any:
    whisper, torch = _whisper(), _torch()
    full = ""
    try:
        # First to host memory: the card need not hold the checkpoint beside the model.
        return whisper.load_model(os.fsdecode(path), device="cpu").to(device)
    except torch.OutOfMemoryError as error:
        full = str(error)
    except pickle.UnpicklingError as error:
        raise _not_a_model(path, "it is no plain file of weights") from error
    except UNUSABLE as error:
        raise _not_a_model(path, str(error).splitlines()[0] if str(error) else "empty") from error
    _tidy()
    raise NoMemory(f"the Whisper model does not fit the card: {full}")


def _not_a_model(path: bytes, why: str) -> EngineMissing:
    return EngineMissing(
        f"{shown(os.path.basename(path))} can not be used as a Whisper model: {shown(why)}",
        f"copy or fetch {shown(path)} again; perhaps it was cut short",
    )


def _fetched(model: str, folder: bytes, offline: bool, turn: Turn) -> bytes:
    """Bring a known model's weights into the folder; EngineMissing with what to do if not.

    Not whisper's own way, because that one leaves half a file behind when it is interrupted, waits
    for ever on a silent network and can not be cancelled.
    """
    target = os.path.join(folder, f"{ALIASES.get(model, model)}.pt".encode())
    reason = f'the weights of Whisper "{model}" are not here'
    hint = f"put {shown(os.path.basename(target))} into {shown(folder)}"
    if offline:
        raise EngineMissing(f"{reason} and offline is set", f"{hint}, or set offline = false")
    if model not in _unfetched:
        urls: dict[str, str] = _whisper()._MODELS  # the one list of addresses
        if model not in urls:
            raise EngineMissing(f'there is no Whisper model "{model}"', f"one of {', '.join(urls)}")
        try:
            fetch(urls[model], urls[model].split("/")[-2], target, turn)
        except EngineMissing as error:
            _unfetched[model] = error.reason
        else:
            return target
    raise EngineMissing(
        f"{reason} and can not be fetched: {_unfetched[model]}",
        f"{hint}, or connect this machine once",
    )


def hear(loaded: Loaded, sounds: Sequence[Floats], ask: Ask, turn: Turn) -> list[Heard]:
    """Text of each sound (16 kHz mono, -1 to 1, up to 30 s), all decoded in one batch.

    With an empty language the batch's most likely one is taken for all. `turn` is called many
    times a second; what it raises ends the work. NoMemory if the batch does not fit.
    """
    torch = _torch()
    try:
        with _turning(loaded.model, turn), torch.no_grad():
            return _Batch(loaded, sounds, ask).hear()
    except torch.OutOfMemoryError as error:
        full = str(error)
    _tidy()  # only here: inside the except the traceback still holds the tensors
    raise NoMemory(f"a batch of {len(sounds)} does not fit the card: {full}")


@contextlib.contextmanager
def _turning(model: Any, turn: Turn) -> Iterator[None]:
    """Call `turn` before every layer: one batch of a large model on a CPU takes minutes."""
    blocks = (*model.encoder.blocks, *model.decoder.blocks)
    hooks = [block.register_forward_pre_hook(lambda *_given: turn()) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Batch:
    """Sounds that are decoded together."""

    def __init__(self, loaded: Loaded, sounds: Sequence[Floats], ask: Ask) -> None:
        self._whisper = _whisper()
        self._model = loaded.model
        self._half = loaded.device == "cuda"
        self._seconds = [len(sound) / RATE for sound in sounds]
        self._ask = ask
        self._features = self._encode(sounds, loaded.device)
        self._language = self._asked_language() or self._likely_language()
        self._tokenizer = self._whisper.tokenizer.get_tokenizer(
            self._model.is_multilingual,
            num_languages=self._model.num_languages,
            language=self._language,
            task=ask.task,
        )

    def _encode(self, sounds: Sequence[Floats], device: str) -> Any:
        torch, whisper = _torch(), self._whisper
        mels = [
            whisper.log_mel_spectrogram(
                whisper.pad_or_trim(torch.from_numpy(sound)),
                n_mels=self._model.dims.n_mels,
                device=device,
            )
            for sound in sounds
        ]
        batch = torch.stack(mels)
        return self._model.encoder(batch.half() if self._half else batch)

    def _asked_language(self) -> str:
        tokens, wish = self._whisper.tokenizer, self._ask.language.lower()
        language = str(tokens.TO_LANGUAGE_CODE.get(wish, wish))
        if language and language not in tokens.LANGUAGES:
            raise BadInput(
                f"Whisper knows no language {shown(wish)!r}", 'use a code such as "en", or "auto"'
            )
        if language not in ("", "en") and not self._model.is_multilingual:
            raise EngineMissing(
                "this Whisper model only knows English", "use one whose name has no .en"
            )
        return language

    def _likely_language(self) -> str:
        if not self._model.is_multilingual:
            return "en"
        _tokens, chances = self._model.detect_language(self._features)
        return str(max(chances[0], key=lambda code: sum(chance[code] for chance in chances)))

    def hear(self) -> list[Heard]:
        """Decode all, then again only what failed, a little more freely each time."""
        best: dict[int, Any] = {}
        left = list(range(len(self._seconds)))
        again: set[int] = set()
        for temperature in self._ask.temperatures:
            again |= set(left) & set(best)
            for item, result in zip(left, self._decode(left, temperature), strict=True):
                best[item] = max(best.get(item, result), result, key=_worth)
            left = [item for item in left if _failed(best[item])]
            if not left:
                break
        return [
            Heard(
                segments=self._segments(best[item], self._seconds[item]),
                language=self._language,
                again=item in again,
            )
            for item in range(len(self._seconds))
        ]

    def _decode(self, items: list[int], temperature: float) -> list[Any]:
        longest = max(self._seconds[item] for item in items)
        tokens = math.ceil(longest * TOKENS_PER_SECOND) + TOKENS_SPARE
        if temperature:
            _torch().manual_seed(0)  # the same file gives the same text
        beams = self._ask.beam if self._ask.beam > 1 and not temperature else None
        options = self._whisper.DecodingOptions(
            task=self._ask.task,
            language=self._language,
            temperature=temperature,
            sample_len=min(tokens, self._model.dims.n_text_ctx // 2),
            beam_size=beams,
            prompt=self._ask.prompt or None,
            fp16=self._half,
        )
        # A beam search of this version fails with more than one sound at a time.
        groups = [[item] for item in items] if beams else [items]
        return [
            result
            for group in groups
            for result in self._whisper.decode(self._model, self._features[group], options)
        ]

    def _segments(self, result: Any, seconds: float) -> tuple[Segment, ...]:
        if _silent(result):
            return ()
        begin = self._tokenizer.timestamp_begin
        step = LONGEST / self._model.dims.n_audio_ctx
        found: list[Segment] = []
        for start, end, tokens in phrases(result.tokens, begin, step, seconds):
            spoken = [token for token in tokens if token < self._tokenizer.eot]
            text = self._tokenizer.decode(spoken).strip()
            if result.compression_ratio > MOST_REPETITIVE:
                text = without_loops(text)
                if found and found[-1].text == text:
                    continue
            if text:
                found.append(Segment(start=start, end=end, text=text))
        return tuple(found)


def _silent(result: Any) -> bool:
    return bool(result.no_speech_prob > SILENT and result.avg_logprob < LEAST_LIKELY)


def _failed(result: Any) -> bool:
    if _silent(result):
        return False
    return bool(result.compression_ratio > MOST_REPETITIVE or result.avg_logprob < LEAST_LIKELY)


def _worth(result: Any) -> tuple[bool, float]:
    return result.compression_ratio <= MOST_REPETITIVE, result.avg_logprob
