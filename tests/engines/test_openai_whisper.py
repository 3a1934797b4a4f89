"""The Whisper engine: a tiny random model in the real format, through the real loader."""

import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import whisper
from numpy.typing import NDArray
from whisper.decoding import DecodingResult
from whisper.tokenizer import get_tokenizer

from pipeline.core.errors import BadInput, Cancelled, EngineMissing
from pipeline.engines import openai_whisper as engine
from tests.fakes.speech import save_tiny_whisper, speech

GREEDY = engine.Ask(language="en", temperatures=(0.0,))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_whisper(tmp_path_factory.mktemp("models") / "small.pt")


@pytest.fixture
def loaded(tiny: Path) -> engine.Loaded:
    return load(str(tiny))


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No fetch was tried, no cache of the person who runs the tests is looked at."""
    engine._unfetched.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    engine._unfetched.clear()


@pytest.fixture
def site(tiny: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server that has the tiny model; its address and the paths that were asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            data = b"" if "gone" in self.path else tiny.read_bytes()
            self.send_response(200 if data else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if "cut" in self.path else data)

        def log_request(self, *args: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


def load(model: str, models_dir: bytes = b"", *, offline: bool = True) -> engine.Loaded:
    return engine.load(engine.locate(model, device="cpu", models_dir=models_dir, offline=offline))


def sounds() -> list[NDArray[np.float32]]:
    whole = speech()
    return [whole[int(at * 16_000) :][:16_000] for at in (1.6, 2.9, 6.6)]


def test_a_model_is_found_by_path_and_by_name(tiny: Path) -> None:
    """An absolute path, a path in the models folder and a name all mean the same file."""
    folder = os.fsencode(tiny.parent)
    ways = [(str(tiny), b""), ("small.pt", folder), ("small", folder)]
    found = {
        engine.locate(model, device="cpu", models_dir=models_dir, offline=True)
        for model, models_dir in ways
    }
    (located,) = found
    assert (located.name, located.device) == ("small", "cpu")
    assert engine.load(located).dtype == "float32"


def test_names_are_looked_for_in_whispers_own_cache(tiny: Path, tmp_path: Path) -> None:
    """A model that whisper itself once fetched is found, also under its other name."""
    cache = tmp_path / "cache" / "whisper"
    cache.mkdir(parents=True)
    (cache / "large-v3-turbo.pt").hardlink_to(tiny)
    assert engine.find_weights("turbo", b"/nowhere") == os.fsencode(cache / "large-v3-turbo.pt")
    assert engine.find_weights("tiny", b"") is None


@pytest.mark.parametrize("model", ["../small", "..", "-x", "a b", "x\n", ""])
def test_a_name_leads_nowhere_else(model: str) -> None:
    """What is neither a plain name nor a file is refused."""
    with pytest.raises(EngineMissing):
        engine.find_weights(model, b"/nowhere")


def test_one_batch_hears_what_each_alone_hears(loaded: engine.Loaded) -> None:
    """Decoded together, sounds give the same tokens and phrases as one by one."""
    every = sounds()
    together = engine._Batch(loaded, every, GREEDY)._decode([0, 1, 2], 0.0)
    alone = [engine._Batch(loaded, [one], GREEDY)._decode([0], 0.0)[0] for one in every]
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    assert all(one.tokens for one in together)
    heard = engine.hear(loaded, every, GREEDY, lambda: None)
    assert heard == [engine.hear(loaded, [one], GREEDY, lambda: None)[0] for one in every]


def test_phrases_lie_inside_the_sound(loaded: engine.Loaded) -> None:
    """Whatever the model says, times are in order and within the second that it heard."""
    for one in engine.hear(loaded, sounds(), engine.Ask(), lambda: None):
        assert one.language in whisper.tokenizer.LANGUAGES
        assert one.again
        for segment in one.segments:
            assert 0.0 <= segment.start <= segment.end <= 1.0
            assert segment.text == segment.text.strip() != ""


def test_a_second_hearing_is_the_same(loaded: engine.Loaded) -> None:
    """Even what is decoded again at random comes out the same each time."""
    first = engine.hear(loaded, sounds(), engine.Ask(), lambda: None)
    assert engine.hear(loaded, sounds(), engine.Ask(), lambda: None) == first


def said(text: str, logprob: float, ratio: float = 1.0, silence: float = 0.0) -> DecodingResult:
    """A result of whisper.decode whose one phrase is the text."""
    tokens = get_tokenizer(True, num_languages=99).encode(f" {text}")
    return DecodingResult(
        audio_features=torch.zeros(0), language="en", tokens=tokens, text=text,
        avg_logprob=logprob, no_speech_prob=silence, compression_ratio=ratio,
    )  # fmt: skip


def test_only_what_failed_is_heard_again(
    loaded: engine.Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A good text stays, silence stays silent, a guess is replaced by a better one, a loop ends."""
    loop = "so it goes " * 9
    tries = {
        0.0: [
            said("good", -0.3),
            said("guess", -1.5),
            said(loop, -0.1, 5.0),
            said("x", -2, 1, 0.9),
        ],
        0.4: [said("better", -0.5), said(loop, -0.2, 5.0)],
        0.8: [said(loop, -0.3, 5.0)],
    }
    asked: list[tuple[list[int], float]] = []

    def decode(_batch: object, items: list[int], temperature: float) -> list[DecodingResult]:
        asked.append((list(items), temperature))
        return tries[temperature]

    monkeypatch.setattr(engine._Batch, "_decode", decode)
    heard = engine.hear(loaded, [*sounds(), sounds()[0]], engine.Ask(language="en"), lambda: None)
    assert asked == [([0, 1, 2, 3], 0.0), ([1, 2], 0.4), ([2], 0.8)]
    texts = [" ".join(segment.text for segment in one.segments) for one in heard]
    assert texts == ["good", "better", "so it goes", ""]
    assert [one.again for one in heard] == [False, True, True, False]


@pytest.mark.filterwarnings("ignore:__array_wrap__")  # whisper's own, with numpy 2
def test_a_beam_search_takes_a_batch(loaded: engine.Loaded) -> None:
    """More than one beam and a prompt work with more than one sound."""
    short = [sound[:8000] for sound in sounds()[:2]]
    ask = engine.Ask(language="German", beam=2, prompt="Penstock", temperatures=(0.0,))
    heard = engine.hear(loaded, short, ask, lambda: None)
    assert [one.language for one in heard] == ["de", "de"]


def test_work_can_be_stopped_inside_a_batch(loaded: engine.Loaded) -> None:
    """What `turn` raises comes through at once, and the model still works afterwards."""
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        if turns == 5:
            raise Cancelled("asked")

    before = engine.hear(loaded, sounds(), GREEDY, lambda: None)
    with pytest.raises(Cancelled):
        engine.hear(loaded, sounds(), GREEDY, turn)
    assert turns == 5
    assert engine.hear(loaded, sounds(), GREEDY, lambda: None) == before


def test_an_unknown_language_is_refused(loaded: engine.Loaded) -> None:
    """The reason names the language."""
    with pytest.raises(BadInput, match="tlh"):
        engine.hear(loaded, sounds(), engine.Ask(language="tlh"), lambda: None)


def test_an_english_model_says_so(tmp_path: Path) -> None:
    """Another language is refused; unasked, the language is English."""
    only = load(str(save_tiny_whisper(tmp_path / "small.en.pt", multilingual=False)))
    with pytest.raises(EngineMissing, match="only knows English"):
        engine.hear(only, sounds(), engine.Ask(language="fr"), lambda: None)
    ask = engine.Ask(temperatures=(0.0,))
    assert engine.hear(only, sounds()[:1], ask, lambda: None)[0].language == "en"


@pytest.mark.parametrize("keep", [0, 100, 5000, -1000])
def test_a_cut_file_is_named(tiny: Path, tmp_path: Path, keep: int) -> None:
    """Weights that were cut short are refused with the file and what to do."""
    path = tmp_path / "cut.pt"
    path.write_bytes(tiny.read_bytes()[:keep])
    with pytest.raises(EngineMissing, match=r"cut\.pt can not be used as a Whisper model") as found:
        load(str(path))
    assert "again" in found.value.hint


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_code_is_refused(tmp_path: Path, zipped: bool) -> None:
    """A pickled call is not run, in the new format nor in the old one."""
    path, trap = tmp_path / "evil.pt", tmp_path / "trap"
    torch.save({"dims": Evil(trap)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(EngineMissing, match="no plain file of weights"):
        load(str(path))
    assert not trap.exists()


@pytest.mark.parametrize("content", [{}, [], {"dims": {}}, {"dims": {"n_mels": 80}}, 7])
def test_other_torch_files_are_refused(tmp_path: Path, content: object) -> None:
    """A torch file that holds something else is no Whisper model."""
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(EngineMissing, match="can not be used as a Whisper model"):
        load(str(tmp_path / "other.pt"))


def test_missing_weights_offline_say_where_to_put_them(room: bytes) -> None:
    """Offline nothing is tried, and the hint names the file and the folder."""
    with pytest.raises(EngineMissing, match='"small" are not here') as found:
        load("small", room)
    assert f"put small.pt into {os.fsdecode(room)}" in found.value.hint


def test_missing_weights_are_fetched_whole(
    site: tuple[str, list[str]], tiny: Path, room: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is not on disk is fetched into the models folder and loaded from there."""
    address, asked = site
    digest = hashlib.sha256(tiny.read_bytes()).hexdigest()
    monkeypatch.setitem(whisper._MODELS, "base", f"{address}/{digest}/base.pt")
    assert load("base", room, offline=False).name == "base"
    assert os.listdir(room) == [b"base.pt"]
    load("base", room, offline=False)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("path", "reason"), [("0" * 64, "SHA-256"), ("cut", "SHA-256|more expected"), ("gone", "404")]
)
def test_a_failed_fetch_leaves_nothing_and_is_not_repeated(
    site: tuple[str, list[str]],
    room: bytes,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    reason: str,
) -> None:
    """Wrong bytes, a broken line or a missing page: a clear reason, no file, no second try."""
    address, asked = site
    monkeypatch.setitem(whisper._MODELS, "base", f"{address}/{path}/base.pt")
    for _try in range(2):
        with pytest.raises(EngineMissing, match=reason) as found:
            load("base", room, offline=False)
        assert "connect this machine once" in found.value.hint
    assert not os.listdir(room)
    assert len(asked) == 1


def test_a_name_that_nobody_knows_is_refused(room: bytes) -> None:
    """A wrong name gives the list of right ones."""
    with pytest.raises(EngineMissing, match="no Whisper model") as found:
        load("smol", room, offline=False)
    assert "small" in found.value.hint


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a card")
def test_a_card_that_is_not_there_is_missed(tiny: Path) -> None:
    """device = cuda without a card fails; auto takes the CPU."""
    with pytest.raises(EngineMissing, match="card"):
        engine.locate(str(tiny), device="cuda", models_dir=b"", offline=True)
    assert engine.locate(str(tiny), device="auto", models_dir=b"", offline=True).device == "cpu"
