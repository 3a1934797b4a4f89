"""Crashes: a real daemon killed at each effect of a file's walk, then started again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = """
[[watch]]
name = "drill"
path = "in"
recipe = "noop"
outbox = "out"
archive = "archive"
failed = "failed"
settle_seconds = 0.0
incomplete_seconds = 0.0
"""
RUN_S = 60
SAMPLE = 12  # kill points in the fast run, spread over the walk


def prepare(room: Path) -> Path:
    """A watch with one good file in a subfolder and one that must fail."""
    config = room / "config.toml"
    config.write_text(CONFIG)
    (room / "in" / "sub").mkdir(parents=True)
    (room / "in" / "sub" / "good file.txt").write_text("good")
    (room / "in" / "empty.txt").write_text("")
    return config


def daemon(config: Path, deadly: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fakes.killed_daemon", str(config), str(deadly)],
        capture_output=True, text=True, timeout=RUN_S, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )  # fmt: skip


def tree(room: Path) -> set[str]:
    """Every file and every folder without content, except the daemon's own."""
    found = {str(path.relative_to(room)) for path in room.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith(("state/", "logs/", "config.toml"))}


WANTED = {
    "out/sub/good file/good file.noop.json",
    "out/sub/good file/good file.penstock.json",
    "archive/sub/good file.txt",
    "failed/empty.txt",
    "failed/empty.txt.FAILED.txt",
}


def check(room: Path) -> None:
    assert tree(room) == WANTED
    assert (room / "archive/sub/good file.txt").read_text() == "good"
    assert (room / "out/sub/good file/good file.noop.json").read_text().endswith("}\n")
    assert not list((room / "out").glob(".penstock/*"))
    assert not list((room / "state" / "scratch").glob("*"))


def kill_and_recover(room: Path, deadly: int) -> None:
    config = prepare(room)
    killed = daemon(config, deadly)
    assert killed.returncode in (-signal.SIGKILL, 1), killed.stderr
    again = daemon(config, 0)
    assert again.returncode in (0, 1), again.stderr  # 0: the failure was told before the kill
    check(room)


@pytest.fixture(scope="module")
def effects(tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many effects one undisturbed walk has."""
    room = tmp_path_factory.mktemp("undisturbed")
    done = daemon(prepare(room), 0)
    assert done.returncode == 1, done.stderr
    check(room)
    return int(done.stdout.split()[-1])


def test_a_sample_of_kills_loses_nothing(effects: int, tmp_path: Path) -> None:
    """Killed at points spread over the walk, a restart ends with one whole result, no litter."""
    step = max(1, effects // SAMPLE)
    for deadly in range(1, effects + 1, step):
        room = tmp_path / f"kill-{deadly}"
        room.mkdir()
        kill_and_recover(room, deadly)


@pytest.mark.slow
def test_every_single_kill_loses_nothing(effects: int, tmp_path: Path) -> None:
    """Killed at every single effect in turn, a restart ends with one whole result, no litter."""
    for deadly in range(1, effects + 1):
        room = tmp_path / f"kill-{deadly}"
        room.mkdir()
        kill_and_recover(room, deadly)
