"""`penstock demo`: the sample, the way in, and what it says when it goes wrong."""

import os
import shutil
from pathlib import Path

import pytest

from daemon.cli.demo_daemon import DemoDaemon, DemoFailed
from daemon.cli.demo_sample import PACKAGED, make_sample
from tests.cli.house import House


def test_the_sample_that_comes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a speech program the packaged recording is used, which is whole and small."""
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    path, how = make_sample(os.fsencode(tmp_path))
    assert how == "which comes with Penstock"
    with open(path, "rb") as file:
        assert file.read(4) == b"fLaC"
    assert 50_000 < os.path.getsize(PACKAGED) < 150_000


def test_a_broken_speech_program_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that fails or says nothing leaves no sample behind."""
    for name in ("flite", "espeak-ng"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    path, _how = make_sample(os.fsencode(tmp_path))
    assert os.path.basename(path) == b"fox.flac"


def test_a_daemon_that_does_not_start_is_shown_with_its_last_words(tmp_path: Path) -> None:
    """The failure says how the daemon ended and what its log says."""
    config = tmp_path / "config.toml"
    config.write_text("[worker]\nlines = 1\n")
    with (
        pytest.raises(DemoFailed, match="exit status 78") as failure,
        DemoDaemon(str(config), os.fsencode(tmp_path)) as daemon,
    ):
        daemon.wait_until_ready()
    assert any("lanes" in line for line in failure.value.last_words)


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    """--keep names a new folder: nothing that is there is written over."""
    house = House(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    ran = house.penstock("demo", "--keep", "mine")
    assert ran.returncode == 1
    assert "is not empty" in ran.stderr


@pytest.mark.slow
def test_the_whole_demo(tmp_path: Path) -> None:
    """Both results come, the daemon is gone, and it is said which engine heard the sentence."""
    house = House(tmp_path)
    ran = house.penstock("demo", "--keep", "mine")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "quick brown fox" in ran.stdout
    assert "heard by" in ran.stdout
    results = house.files("mine/outbox")
    assert {"talks/fox/fox.srt", "music/fox/fox.mp4"} <= results
    assert "no daemon is running" in house.penstock("status", "--config", "mine/config.toml").stdout
