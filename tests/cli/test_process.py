"""`penstock process` as a real process over real files."""

import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest

from daemon.cli.main import main
from tests.cli.house import House, command, environment


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_good_files_are_done_and_bad_ones_are_named_with_a_reason(house: House) -> None:
    """Each file that can not be done has a line that says why; the others are done; status 1."""
    room = os.fsencode(house.room)
    good = [b"plain.txt", b"new\nline.txt", b"[bold]red[green].txt", b"b\xff.t"]
    for name in good:
        with open(os.path.join(room, name), "wb") as file:
            file.write(b"words")
    (house.room / "empty.txt").touch()
    (house.room / "link.txt").symlink_to("plain.txt")
    os.mkfifo(house.room / "pipe.txt")
    (house.room / "hollow").mkdir()
    bad = [b"empty.txt", b"missing.txt", b"link.txt", b"pipe.txt", b"hollow"]
    ran = house.penstock("process", *good, *bad, "--recipe", "noop", "--output", "out")
    assert ran.returncode == 1, ran.stderr
    for told in (
        "failed empty.txt: empty.txt is empty",
        "failed missing.txt: there is no such file",
        "failed link.txt: a symbolic link",
        "failed pipe.txt: a named pipe",
        "failed hollow: the folder holds no file",
        "done new\\nline.txt → ",
        "done [bold]red[green].txt → ",
        "done b\\udcff.t → ",
        "4 done, 5 failed",
    ):
        assert told in ran.stdout
    assert house.files("out") >= {"plain/plain.noop.json", "new_line/new_line.noop.json"}
    assert not (house.room / "out" / ".penstock").exists()
    assert (house.room / "plain.txt").read_text() == "words"
    assert "FAILED" not in " ".join(os.listdir(house.room))


def test_a_folder_is_mirrored_and_the_answer_is_one_document(house: House) -> None:
    """Results mirror the given folder; --json prints one document and nothing else."""
    (house.room / "talks" / "day one").mkdir(parents=True)
    (house.room / "talks" / "a.txt").write_text("a")
    (house.room / "talks" / "day one" / "a.txt").write_text("b")
    ran = house.penstock(
        "process", "talks", "talks/a.txt", "--recipe", "noop", "--output", "out", "--json"
    )
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert {entry["file"]: entry["state"] for entry in document["files"]} == {
        "talks/a.txt": "done",
        "talks/day one/a.txt": "done",
    }
    assert [stage["engine"] for stage in document["files"][0]["stages"]] == ["noop"]
    assert (document["done"], document["failed"]) == (2, 0)
    assert {"a/a.noop.json", "day one/a/a.noop.json"} <= house.files("out")


def test_two_files_of_one_name_have_two_results(house: House) -> None:
    """Files of the same stem get numbered result folders; a file named twice is done once."""
    for folder in ("one", "two"):
        (house.room / folder).mkdir()
        (house.room / folder / "talk.txt").write_text(folder)
    ran = house.penstock(
        "process", "one/talk.txt", "one/../one/talk.txt", "two/talk.txt",
        "--recipe", "noop", "--output", "out",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    assert {path.name for path in (house.room / "out").iterdir()} == {"talk", "talk (2)"}


def test_a_file_that_the_recipe_does_not_take(house: House) -> None:
    """A file of a wrong kind fails with a plain sentence."""
    (house.room / "text.docx").write_text("words")
    ran = house.penstock("process", "text.docx", "--recipe", "transcribe", "--output", "out")
    assert ran.returncode == 1
    assert "failed text.docx: transcribe does not take .docx files" in ran.stdout


def test_options_come_from_the_config_and_the_command_line_wins(house: House) -> None:
    """[recipes.NAME] of ./config.toml counts, and --option counts more."""
    house.config.write_text(
        '[recipes.noop]\nseconds = 0.01\n[[watch]]\nname = "w"\npath = "in"\nrecipe = "noop"\n'
        'outbox = "box"\nafter = "keep"\n'
    )
    (house.room / "a.txt").write_text("a")
    for given, seconds in (((), 0.01), (("--option", "seconds=0.02"), 0.02)):
        out = f"out-{seconds}"
        ran = house.penstock("process", "a.txt", "--recipe", "noop", "--output", out, *given)
        assert ran.returncode == 0, ran.stderr
        report = json.loads((house.room / out / "a" / "a.penstock.json").read_text())
        assert report["options"] == {"seconds": seconds}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--recipe", "nope", "--output", "out"], "invalid choice: 'nope'"),
        (["--recipe", "noop", "--output", "out", "--option", "secons=1"], 'mean "seconds"?'),
        (["--recipe", "noop", "--output", "out", "--option", "seconds=x"], "must be a number"),
        (["--recipe", "noop", "--output", "out", "--option", "seconds"], "no KEY=VALUE"),
        (["--recipe", "noop", "--output", "out", "--lanes", "99"], "--lanes"),
        (["--recipe", "noop", "--output", "in/out"], "lies in the given folder"),
        (["--recipe", "noop"], "--output"),
    ],
)
def test_a_wrong_command_line(
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    told: str,
) -> None:
    """A wrong command line ends with status 64, the usage and what is wrong; nothing is made."""
    (house.room / "in").mkdir()
    monkeypatch.chdir(house.room)
    with pytest.raises(SystemExit) as end:
        main(["process", "in", *words])
    assert end.value.code == 64
    assert told in capsys.readouterr().err
    assert os.listdir(house.room) == ["in"]


def test_a_bad_config_ends_with_78(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A config that lies here but is wrong is not passed over in silence."""
    house.config.write_text("[worker]\nlines = 2\n")
    monkeypatch.chdir(house.room)
    assert main(["process", "a.txt", "--recipe", "noop", "--output", "out"]) == 78
    assert 'did you mean "lanes"?' in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_call_leaves_nothing_half_done(house: House, number: signal.Signals) -> None:
    """Ctrl-C or SIGTERM ends soon with 130, says what was not finished and leaves no leftovers."""
    (house.room / "a.txt").write_text("a")
    child = house.start(
        "process", "a.txt", "--recipe", "noop", "--output", "out", "--option", "seconds=600"
    )
    assert child.stdout
    with child.stdout as lines:
        assert lines.readline() == b"started a.txt\n"
        child.send_signal(number)
        said = lines.read().decode()
    assert child.wait() == 130
    assert "1 not finished" in said
    assert list((house.room / "out").iterdir()) == []


def test_what_a_killed_call_left_is_swept_by_the_next(house: House) -> None:
    """After SIGKILL the next call on the same output removes the leftovers."""
    (house.room / "a.txt").write_text("a")
    child = house.start(
        "process", "a.txt", "--recipe", "noop", "--output", "out", "--option", "seconds=600"
    )
    assert child.stdout
    with child.stdout as lines:
        assert lines.readline() == b"started a.txt\n"
        child.kill()
    child.wait()
    assert list((house.room / "out" / ".penstock").iterdir())
    ran = house.penstock("process", "a.txt", "--recipe", "noop", "--output", "out")
    assert ran.returncode == 0, ran.stderr
    assert [path.name for path in (house.room / "out").iterdir()] == ["a"]


def test_a_terminal_gets_bars(house: House) -> None:
    """On a terminal there is a bar for all files, and markup in a name stays text."""
    (house.room / "[red]a[green].txt").write_text("a")
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        command(
            "process", "[red]a[green].txt", "--recipe", "noop", "--output", "out",
            "--option", "seconds=0.6",
        ),
        cwd=house.room, env=environment() | {"TERM": "xterm"}, stdout=theirs, stderr=theirs,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    try:
        while block := os.read(ours, 65536):
            said += block
    except OSError:  # the terminal's other end is closed
        pass
    os.close(ours)
    assert child.wait() == 0
    assert b"all files" in said
    assert b"noop" in said
    assert "✓ [red]a[green].txt → ".encode() in said
