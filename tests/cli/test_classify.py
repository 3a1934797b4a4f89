"""Tests of `penstock memory classify`: one word for each line, at once."""

import argparse
import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from daemon.cli import memory
from tests.gpu import corpus

ROOT = Path(__file__).parent.parent.parent
WORDS = {"recover", "replace_worker", "not_memory", "device_lost"}
PROGRAM = """\
import argparse, sys
from daemon.cli import memory
parser = argparse.ArgumentParser()
memory.add_parser(parser.add_subparsers())
args = parser.parse_args(sys.argv[1:])
sys.exit(args.run(args))
"""


def answers(
    data: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str
) -> list[str]:
    parser = argparse.ArgumentParser()
    memory.add_parser(parser.add_subparsers())
    args = parser.parse_args(["memory", "classify", *more])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    assert args.run(args) == os.EX_OK
    return capsys.readouterr().out.splitlines()


def one_line(text: str) -> bytes:
    return text.replace("\n", " ").encode()


def test_the_whole_corpus(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every text of the corpus, one a line, gets its word on its line."""
    expected = [
        (text, kind)
        for texts, kind in (
            (corpus.CARD_FULL + corpus.HOST_FULL, "recover"),
            (corpus.REPLACE, "replace_worker"),
            (corpus.LOST, "device_lost"),
            (corpus.LOOK_ALIKES, "not_memory"),
        )
        for text in texts
    ]
    data = b"".join(one_line(text) + b"\n" for text, _kind in expected)
    said = answers(data, monkeypatch, capsys)
    assert len(said) == len(expected)
    wrong = [
        (text, word) for (text, kind), word in zip(expected, said, strict=True) if word != kind
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", []),
        (b"\n", ["not_memory"]),
        (b"\n\n", ["not_memory", "not_memory"]),
        (b"MemoryError", ["recover"]),
        (b"room\r\nMemoryError\r\n", ["not_memory", "recover"]),
        (b"\xff\xfe\x00 CUDA out of memory. \xc3(\n", ["recover"]),
        (b"a\x00b\x0b\x0cc\n", ["not_memory"]),
        (b"\xe2\x80\xa8room\xe2\x80\xa9\n", ["not_memory"]),
    ],
)
def test_exactly_one_word_a_line(
    data: bytes,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Empty lines, no last line end, Windows lines and bytes that are no text get one word each."""
    assert answers(data, monkeypatch, capsys) == words


def test_a_line_of_megabytes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line without end is one line, and what it ends with is read."""
    long = b"x " * 1_000_000
    data = long + b"CUDA out of memory. Tried to allocate 2.00 GiB.\n" + long + b"\nroom"
    assert answers(data, monkeypatch, capsys) == ["recover", "not_memory", "not_memory"]


def test_explained(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With --explain the library and the reason follow the word."""
    said = answers(b"CUDA failed with error out of memory\n", monkeypatch, capsys, "--explain")
    assert said == ["recover\tctranslate2\tthe card ran out of memory"]


def test_any_config_is_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Like every command it takes --config, though nothing depends on it."""
    assert answers(b"room\n", monkeypatch, capsys, "--config", "x") == ["not_memory"]


def test_each_line_is_answered_at_once() -> None:
    """Whoever writes a line gets its answer before the next; nothing heavy is loaded for it."""
    check = PROGRAM.replace(
        "sys.exit(args.run(args))",
        "status = args.run(args)\n"
        "heavy = {'torch', 'numpy', 'rich'} & set(sys.modules)\n"
        "sys.exit(7 if heavy else status)",
    )
    with subprocess.Popen(
        [sys.executable, "-c", check, "memory", "classify"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
    ) as child:  # fmt: skip
        assert child.stdin
        assert child.stdout
        for text in ("MemoryError", "room", "GPU is lost"):
            child.stdin.write(text.encode() + b"\n")
            child.stdin.flush()
            assert child.stdout.readline().decode().strip() in WORDS
        child.stdin.close()
        assert child.wait(30) == 0
