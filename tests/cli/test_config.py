"""Tests of daemon/cli/config.py: `penstock config check` and `penstock config show`."""

import argparse
from pathlib import Path

import pytest
import tomli

from daemon.cli import config

GOOD = """\
[[watch]]
name = "talks"
path = "in"
recipe = "transcribe"
outbox = "out"
after = "keep"
"""


def penstock(*words: str) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    config.add_parser(parser.add_subparsers())
    args = parser.parse_args(words)
    status = args.run(args)
    assert isinstance(status, int)
    return status


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "config.toml"


def test_a_good_config(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stdout and exit status 0."""
    file.write_text(GOOD)
    assert penstock("config", "check") == 0
    assert capsys.readouterr() == ("config.toml: good (1 watch)\n", "")
    file.write_text(GOOD + GOOD.replace("talks", "more").replace('"in"', '"in2"'))
    assert penstock("config", "check") == 0
    assert capsys.readouterr() == ("config.toml: good (2 watches)\n", "")


@pytest.mark.parametrize("action", ["check", "show"])
def test_a_bad_config(file: Path, capsys: pytest.CaptureFixture[str], action: str) -> None:
    """Every problem is a line on stderr, and the exit status is 78."""
    file.write_text("[queue]\nsize = 0\nsiz = 1\n" + GOOD)
    assert penstock("config", action) == 78
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition(" ")[0] for line in err.splitlines()] == [
        "config.toml:2:",
        "config.toml:3:",
    ]


def test_a_config_that_is_not_there(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The hint says how to name one."""
    assert penstock("--config", "other.toml", "config", "check") == 78
    assert "--config FILE" in capsys.readouterr().err


def test_the_settings_in_force(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is shown is TOML with every default spelt out."""
    file.write_text(GOOD)
    assert penstock("config", "show") == 0
    shown = tomli.loads(capsys.readouterr().out)
    assert shown["queue"]["size"] == 64
    assert shown["watch"][0]["path"] == str(file.parent.resolve() / "in")
