"""Speech to text: the choice of an engine, packing, and the real stages one after the other."""

import itertools
import json
import math
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.contract import Failed, Fault, Finished, Order, StageReport
from pipeline.core.errors import NoMemory
from pipeline.core.speech import Segment, Span, Transcript, Word
from pipeline.runner import run_order
from pipeline.stages.transcribe import in_batches, moved, pack, phrased, spoken_only
from tests.fakes.bench import bench_for
from tests.fakes.sounds import write_sound
from tests.fakes.speech import save_tiny_whisper, speech_order


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Weights of the person who runs the tests do not count."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@st.composite
def some_spans(draw: st.DrawFn) -> list[Span]:
    spans, now = [], 0.0
    for _number in range(draw(st.integers(0, 30))):
        start = now + draw(st.floats(0.0, 10.0))
        now = start + draw(st.floats(0.01, 100.0))
        spans.append(Span(start=start, end=now))
    return spans


@given(some_spans(), st.floats(1.0, 30.0), st.sampled_from((0.0, 1.0, math.inf)))
def test_chunks_hold_all_speech(spans: list[Span], limit: float, pause: float) -> None:
    """Every span lies in chunks that are in order, apart, begin and end with speech, and fit."""
    chunks = pack(spans, limit, pause)
    assert all(0 < chunk.seconds <= limit + 1e-6 for chunk in chunks)
    assert all(one.end <= two.start for one, two in itertools.pairwise(chunks))
    if spans:
        assert chunks[0].start == spans[0].start
        assert chunks[-1].end == spans[-1].end
    for span in spans:
        inside = [
            min(span.end, chunk.end) - max(span.start, chunk.start)
            for chunk in chunks
            if chunk.start < span.end and chunk.end > span.start
        ]
        assert sum(inside) == pytest.approx(span.seconds)


def test_a_long_pause_begins_a_new_chunk() -> None:
    """Spans are joined up to the limit, but not across a pause that is too long."""
    spans = [Span(start=start, end=start + 1.0) for start in (0.0, 1.5, 4.0, 5.2)]
    assert pack(spans, 30.0) == [Span(start=0.0, end=6.2)]
    assert pack(spans, 30.0, 1.0) == [Span(start=0.0, end=2.5), Span(start=4.0, end=6.2)]
    assert pack(spans, 3.0) == [Span(start=0.0, end=2.5), Span(start=4.0, end=6.2)]


@pytest.mark.parametrize(("batch", "fits", "final"), [(8, 8, 8), (8, 2, 2), (16, 1, 1), (3, 1, 1)])
def test_a_batch_that_does_not_fit_gets_smaller(batch: int, fits: int, final: int) -> None:
    """After NoMemory the same chunks are tried with a quarter; nothing is lost or done twice."""
    spans = [Span(start=number, end=number + 1.0) for number in range(11)]

    def hear(chunks: Sequence[Span], done: int) -> list[float]:
        assert chunks[0].start == done
        if len(chunks) > fits:
            raise NoMemory("too much")
        return [chunk.start for chunk in chunks]

    assert in_batches(spans, batch, hear) == ([span.start for span in spans], final)


def test_if_not_even_one_fits_the_job_steps_down() -> None:
    """NoMemory for a single chunk is the job's."""

    def hear(_chunks: Sequence[Span], _done: int) -> list[int]:
        raise NoMemory("too much")

    with pytest.raises(NoMemory):
        in_batches([Span(start=0.0, end=1.0)], 4, hear)


def test_words_become_phrases_at_pauses() -> None:
    """A pause of more than 0.6 s ends a segment."""
    words = [Word(start=start, end=start + 0.3, text=f"w{start}") for start in (0.0, 0.4, 2.0)]
    assert [(part.start, part.end, part.text) for part in phrased(words)] == [
        (0.0, 0.7, "w0.0 w0.4"),
        (2.0, 2.3, "w2.0"),
    ]


def test_times_move_to_the_recordings_clock() -> None:
    """A chunk's start is added, its end is never passed."""
    words = (Word(start=0.5, end=9.0, text="x"),)
    found = moved(Segment(start=0.5, end=9.0, text="x", words=words), Span(start=10.0, end=12.0))
    assert (found.start, found.end) == (10.5, 12.0)
    assert (found.words[0].start, found.words[0].end) == (10.5, 12.0)


def test_text_for_silence_is_dropped() -> None:
    """Only segments that overlap a span with speech stay."""
    spans = [Span(start=1.0, end=2.0), Span(start=5.0, end=6.0)]
    parts = [
        Segment(start=start, end=end, text=f"{start}")
        for start, end in ((0.0, 0.9), (0.5, 1.5), (2.1, 4.9), (5.9, 8.0), (6.1, 8.0))
    ]
    assert [part.text for part in spoken_only(parts, spans)] == ["0.5", "5.9"]


def walk(order: Order) -> Finished | Failed:
    return run_order(order, bench_for(lambda _message: None), threading.Event())


def report_of(answer: Finished | Failed, stage: str) -> StageReport:
    assert isinstance(answer, Finished), answer
    return next(report for report in answer.reports if report.stage == stage)


def output(order: Order, suffix: str) -> str:
    with open(os.path.join(order.staging, b"talk" + suffix.encode()), encoding="utf-8") as file:
        return file.read()


def test_a_recording_walks_to_a_labelled_draft(room: bytes) -> None:
    """Without weights the whole recipe gives real words, and every report says that and why."""
    order = speech_order(room)
    answer = walk(order)
    report = report_of(answer, "transcribe")
    assert report.engine.startswith("pocketsphinx 5")
    assert "(draft)" in report.engine
    assert 'the weights of Whisper "small" are not here' in report.fallback
    assert report.facts["language"] == "en"
    assert report.facts["words"] >= 15
    assert isinstance(answer, Finished)
    assert {os.path.basename(out.name) for out in answer.outputs} == {
        b"talk.srt", b"talk.vtt", b"talk.txt", b"talk.json",
    }  # fmt: skip
    assert all(out.size > 0 for out in answer.outputs)
    text = output(order, ".txt")
    assert text.startswith("[DRAFT by pocketsphinx")
    assert "for any purpose" in text
    assert "\nNOTE DRAFT by pocketsphinx" in output(order, ".vtt")
    assert "DRAFT" not in output(order, ".srt")
    found = json.loads(output(order, ".json"))
    assert (found["schema"], found["draft"], found["source"]) == (1, True, "speech.opus")
    assert "Whisper" in found["fallback"]
    assert all(segment["words"] for segment in found["segments"])


def test_silence_gives_an_empty_transcript(room: bytes, tmp_path: Path) -> None:
    """No speech is no error: no engine is asked, no text is invented, the files are valid."""
    quiet = np.zeros((48_000, 1), np.float32)
    order = speech_order(room, write_sound(tmp_path / "quiet.wav", quiet, 16_000, "pcm_s16le"))
    answer = walk(order)
    report = report_of(answer, "transcribe")
    assert report.engine == "none"
    assert report.fallback == ""
    assert report.facts["segments"] == 0
    assert output(order, ".srt") == "\n"
    assert output(order, ".vtt").startswith("WEBVTT")
    assert output(order, ".txt") == "[no speech found]\n"
    assert json.loads(output(order, ".json"))["segments"] == []


def test_an_explicit_engine_does_not_fall_back(room: bytes) -> None:
    """Who asks for Whisper gets Whisper or a failure with the way to it."""
    answer = walk(speech_order(room, engine="openai-whisper"))
    assert isinstance(answer, Failed)
    assert answer.fault is Fault.MISSING
    assert answer.stage == "transcribe"
    assert "put small.pt into" in answer.hint


def test_an_asked_draft_is_no_fallback(room: bytes) -> None:
    """Who asks for the draft engine gets a draft without an excuse."""
    order = speech_order(room, engine="pocketsphinx")
    assert report_of(walk(order), "transcribe").fallback == ""
    assert output(order, ".txt").startswith("[DRAFT by pocketsphinx 5")


def test_no_engine_for_a_language_says_both_reasons(room: bytes) -> None:
    """Another language without weights fails, and the hint is about the weights."""
    answer = walk(speech_order(room, language="de"))
    assert isinstance(answer, Failed)
    assert answer.fault is Fault.MISSING
    assert "not here" in answer.reason
    assert "only knows English" in answer.reason
    assert "put small.pt into" in answer.hint


def test_whisper_runs_when_its_weights_are_there(room: bytes, tmp_path: Path) -> None:
    """With weights in the models folder Whisper is the engine, and its times fit the recording."""
    save_tiny_whisper(tmp_path / "models" / "small.pt")
    order = speech_order(room, models=os.fsencode(tmp_path / "models"), language="en", batch=2)
    report = report_of(walk(order), "transcribe")
    assert report.engine.startswith("openai-whisper 20")
    assert report.engine.endswith("(small)")
    assert report.fallback == ""
    assert report.facts["chunks"] == 1
    assert report.facts["redecoded"] == 1
    with open(os.path.join(order.scratch, b"transcript.json"), "rb") as file:
        told = msgspec.json.decode(file.read(), type=Transcript)
    assert not told.draft
    assert all(0 <= part.start <= part.end <= told.seconds for part in told.segments)


def test_broken_weights_are_named_in_the_fallback(room: bytes, tmp_path: Path) -> None:
    """A file that is no model does not stop the job, and the report says which file it was."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "small.pt").write_bytes(b"PK\3\4 cut")
    order = speech_order(room, models=os.fsencode(tmp_path / "models"))
    report = report_of(walk(order), "transcribe")
    assert "(draft)" in report.engine
    assert "small.pt can not be used as a Whisper model" in report.fallback
