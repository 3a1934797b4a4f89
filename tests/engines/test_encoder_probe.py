"""The choice of a video encoder, from what a trial said."""

import sys
from pathlib import Path

import pytest

from pipeline.engines import encoder_probe
from pipeline.engines.encoder_probe import explain, pick_encoder


@pytest.fixture(autouse=True)
def fresh() -> None:
    encoder_probe._refusal.cache_clear()


def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put another program in the place of the trial's."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_libx264_needs_no_trial_and_no_reason() -> None:
    """Who asks for libx264 gets it, and that is no fallback."""
    assert pick_encoder("libx264") == ("libx264", "")


@pytest.mark.parametrize("wanted", ["auto", "h264_nvenc"])
def test_a_refusal_is_labelled_with_ffmpegs_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    """Without a working card encoder libx264 runs, and the reason keeps FFmpeg's own words."""
    pretend(tmp_path, monkeypatch, "echo Cannot load libcuda.so.1; exit 1")
    choice = pick_encoder(wanted)
    assert choice.codec == "libx264"
    assert "Cannot load libcuda.so.1" in choice.reason
    assert "driver" in choice.reason


def test_a_working_card_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that went well picks the card's encoder."""
    pretend(tmp_path, monkeypatch, "exit 0")
    assert pick_encoder("auto") == ("h264_nvenc", "")


def test_a_driver_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that does not end is killed and counts as a refusal."""
    pretend(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(encoder_probe, "TRIAL_SECONDS", 0.2)
    choice = pick_encoder("auto")
    assert choice.codec == "libx264"
    assert "did not end" in choice.reason


def test_a_driver_that_crashes_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that dies without a word counts as a refusal."""
    pretend(tmp_path, monkeypatch, "kill -SEGV $$")
    assert "crashed" in pick_encoder("auto").reason


def test_the_real_trial_gives_an_answer() -> None:
    """On this machine the choice is one of the two, with a reason if it is the second."""
    choice = pick_encoder("auto")
    assert (choice.codec == "h264_nvenc") == (not choice.reason)


def test_the_most_telling_line_is_explained() -> None:
    """Of several lines the one that names the cause is kept, with its meaning."""
    words = (
        "OpenEncodeSessionEx failed: unsupported device (2): (no details)\nNo capable devices found"
    )
    assert explain(words).startswith("OpenEncodeSessionEx failed: unsupported device")
    assert "no video encoder" in explain(words)
    assert explain("something new\nmore") == "something new"
