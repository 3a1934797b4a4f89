"""The commands that look at a running daemon and command it: a real one, started as a child."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.house import House, names


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A daemon with one job done, one failed, one running for long."""
    house = House(tmp_path_factory.mktemp("house"))
    house.open()
    try:
        (house.room / "in/drill/[red]good[blue].txt").write_text("words")
        (house.room / "in/drill/empty.txt").touch()
        (house.room / "in/drill/upload.part").write_text("wor")
        (house.room / "in/slow/long.txt").write_text("words")
        house.until(lambda status: len(status["recent"]) == 2 and bool(status["running"]))
        yield house
    finally:
        house.close()


def number_of(house: House, name: str) -> str:
    jobs = json.loads(house.penstock("jobs", "--json").stdout)
    return str(next(job["id"] for job in jobs if job["sighting"]["name"] == name))


def test_status_for_people(house: House) -> None:
    """Watches, the running job, ends with their reasons; a name is never markup; status 0."""
    ran = house.penstock("status")
    assert ran.returncode == 0, ran.stderr
    for text in ("ready", "drill", "long.txt", "[red]good[blue].txt", "empty.txt is empty"):
        assert text in ran.stdout


def test_status_for_programs(house: House) -> None:
    """--json is the status document itself."""
    ran = house.penstock("status", "--json")
    assert ran.returncode == 0
    status = json.loads(ran.stdout)
    assert names(status["running"]) == ["long.txt"]
    assert house.daemon
    assert status["pid"] == house.daemon.pid


def test_a_second_daemon_says_who_holds_the_state_folder(house: House) -> None:
    """It refuses to start with status 75 and names the first one's process."""
    ran = house.penstock("run")
    assert ran.returncode == 75
    assert house.daemon
    assert f"pid {house.daemon.pid}" in ran.stderr


def test_jobs_are_listed_and_shown(house: House) -> None:
    """list names every job and its end; --state and --watch choose; show tells one in full."""
    ran = house.penstock("jobs")
    assert ran.returncode == 0
    for text in ("[red]good[blue].txt", "failed", "long.txt", "1 done"):
        assert text in ran.stdout
    chosen = json.loads(house.penstock("jobs", "list", "--state", "failed", "--json").stdout)
    assert [job["sighting"]["name"] for job in chosen] == ["empty.txt"]
    assert json.loads(house.penstock("jobs", "--watch", "slow", "--limit", "1", "--json").stdout)
    told = house.penstock("jobs", "show", number_of(house, "[red]good[blue].txt")).stdout
    for text in ("done", "noop: noop on cpu", "[red]good[blue].noop.json", "admitted", "published"):
        assert text in told


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("jobs", "show"), 64, "needs a number"),
        (("jobs", "show", "x"), 64, "invalid int"),
        (("jobs", "list", "3"), 64, "takes no number"),
        (("jobs", "--state", "lost"), 64, "invalid choice"),
        (("jobs", "show", "4711"), 1, "there is no job 004711"),
        (("jobs", "--watch", "nope"), 1, "there is no watch nope"),
        (("jobs", "retry", "4711"), 1, "there is no job 004711"),
        (("status", "--config", "nope.toml"), 78, "there is no such file"),
    ],
)
def test_what_can_not_be_answered(
    house: House, words: tuple[str, ...], code: int, told: str
) -> None:
    """A wrong command line, a job or a config that is not there: a sentence and its status."""
    ran = house.penstock(*words)
    assert ran.returncode == code
    assert told in ran.stderr


def test_why_tells_what_holds_a_file_and_what_became_of_it(house: House) -> None:
    """The daemon's rule for the path, then the earlier visits of that file."""
    (house.room / "way").symlink_to(house.room / "in" / "slow")
    ran = house.penstock(
        "why", "way/long.txt", "in/drill/upload.part", "in/drill/empty.txt", "out/drill/x", "/etc"
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert "is running: noop" in lines[0]
    assert "a download under way" in "\n".join(lines)
    assert any("failed" in line and "empty.txt is empty" in line for line in lines)
    assert any("lies in the outbox of watch drill" in line for line in lines)
    assert any("lies in no watched folder" in line for line in lines)


def test_pause_and_resume(house: House) -> None:
    """pause keeps a new file queued, resume lets it go on."""
    assert house.penstock("pause").returncode == 0
    (house.room / "in/drill/later.txt").write_text("words")
    status = house.until(lambda status: names(status["queued"]) == ["later.txt"])
    assert status["state"] == "paused"
    assert "paused" in house.penstock("why", "in/drill/later.txt").stdout
    assert house.penstock("resume").stdout == "resumed\n"
    house.until(lambda status: "later.txt" in names(status["recent"]))


def test_retry_and_cancel(house: House) -> None:
    """A failed file can be tried again; a running job can be cancelled, one that is done not."""
    ran = house.penstock("jobs", "retry", number_of(house, "empty.txt"))
    assert (ran.returncode, ran.stderr) == (0, "")
    house.until(lambda status: names(status["recent"]).count("empty.txt") == 2)
    done = house.penstock("jobs", "cancel", number_of(house, "[red]good[blue].txt"))
    assert done.returncode == 1
    assert "can not be cancelled" in done.stderr
    assert house.penstock("jobs", "cancel", number_of(house, "long.txt")).returncode == 0
    house.until(lambda status: not status["running"])
    assert (house.room / "in/slow/long.txt").exists()


def test_without_a_daemon(tmp_path: Path) -> None:
    """Before the first start and after a stop each command says so; what is known is still told."""
    house = House(tmp_path)
    house.config.write_text("")
    assert house.penstock("status").returncode == 78
    house.open()
    (house.room / "in/drill/good.txt").write_text("words")
    (house.room / "in/slow/long.txt").write_text("words")
    house.until(lambda status: len(status["recent"]) == 1 and bool(status["running"]))
    house.close()
    status = house.penstock("status", "--json")
    assert status.returncode == 1
    assert json.loads(status.stdout)["state"] == "stopped"
    assert "no daemon is running" in status.stderr
    assert "no daemon is running (last seen" in house.penstock("status").stdout
    assert "good.txt" in house.penstock("jobs").stdout
    (house.room / "in/drill/new.txt").write_text("words")
    (house.room / "in/drill/.x").write_text("words")
    (house.room / "in/drill/half.wav").write_bytes(b"RIFF\xff\xff\x00\x00WAVE")
    told = house.penstock(
        "why", "in/drill/new.txt", "in/slow/long.txt", "in/drill/half.wav", "in/drill/.x"
    ).stdout.splitlines()
    assert "no daemon is running; when it runs, it takes this" in told[0]
    assert "goes on with job" in told[1]
    assert "waits for the rest" in "".join(told)
    assert "leaves this alone: hidden" in told[-1]
    paused = house.penstock("pause")
    assert paused.returncode == 1
    assert "no daemon is running" in paused.stderr


def test_a_reader_that_leaves_early_is_no_error(house: House) -> None:
    """`penstock jobs | head -1` ends in silence."""
    child = house.start("jobs", "--json")
    assert child.stdout
    child.stdout.close()
    assert child.wait() == 0
