"""The whole daemon in a thread, on real folders, with a worker that behaves as files are named."""

import os
import socket
from pathlib import Path
from typing import Any

import msgspec

from daemon.config import make_folders
from daemon.queue.reader import Reader
from daemon.values import State
from pipeline.core.errors import NoSpace
from tests.fakes.house import House, Open


def test_a_drop_becomes_a_result_and_an_archived_original(open_house: Open) -> None:
    """A dropped file ends as one result folder; its original lies in the archive, unchanged."""
    house = open_house()
    house.drop("sub/my talk.txt", "the words")
    status = house.until_ended(1)
    assert status.recent[0].state == "done"
    assert house.files("out") == {"sub/my talk/my talk.txt", "sub/my talk/my talk.penstock.json"}
    assert (house.room / "archive/sub/my talk.txt").read_text() == "the words"
    assert house.files("in") == set()
    house.close()
    wanted = ["seen", "settled", "admitted", "started", "output", "published", "archived"]
    assert [event for event in house.events() if event in wanted] == wanted


def test_a_file_that_kills_the_worker_twice_is_quarantined_and_the_others_go_on(
    open_house: Open,
) -> None:
    """The poison rule: two dead workers end one file with a note; its neighbours are published."""
    house = open_house()
    house.drop("dies.txt")
    for number in range(3):
        house.drop(f"good-{number}.txt")
    status = house.until_ended(4)
    ends = {job.file: job.state for job in status.recent}
    assert ends.pop("dies.txt") == "failed"
    assert set(ends.values()) == {"done"}
    assert house.files("failed") == {"dies.txt", "dies.txt.FAILED.txt"}
    assert "twice" in (house.room / "failed/dies.txt.FAILED.txt").read_text()


def test_a_silent_worker_is_replaced(open_house: Open) -> None:
    """A worker that gives no sign of life is killed; the file fails, the next one is done."""
    house = open_house(worker={"silent_seconds": 0.6, "lanes": 1})
    house.drop("mute.txt")
    house.until(lambda status: any(job.file == "mute.txt" for job in status.running))
    house.drop("good.txt")
    status = house.until_ended(2)
    assert {job.file: job.state for job in status.recent} == {
        "mute.txt": "failed",
        "good.txt": "done",
    }


def test_a_file_that_changes_while_it_runs_is_superseded(open_house: Open) -> None:
    """New bytes under a running job cancel it; one result is published, of the new bytes."""
    house = open_house()
    house.drop("small.txt", "old")
    house.until(lambda status: len(status.running) == 1)
    house.drop("small.txt", "the new and longer bytes")
    status = house.until(lambda status: any(job.state == "done" for job in status.recent))
    assert [job.state for job in status.recent] == ["done", "superseded"]
    assert (house.room / "archive/small.txt").read_text() == "the new and longer bytes"
    assert {name.split("/")[0] for name in house.files("out")} == {"small"}


def test_a_file_deleted_while_it_runs_is_gone_without_a_failure(open_house: Open) -> None:
    """A file taken away while it runs ends as gone; nothing is published, nothing fails."""
    house = open_house()
    path = house.drop("slow.txt")
    house.until(lambda status: len(status.running) == 1)
    path.unlink()
    assert house.until_ended(1).recent[0].state == "gone"
    house.close()
    assert house.files("out") == house.files("failed") == house.files("in") == set()


def test_the_queue_is_bounded_and_drops_nothing(open_house: Open) -> None:
    """With a queue of two, twenty files are all done and never more than two are admitted."""
    house = open_house(queue={"size": 2})
    for number in range(20):
        house.drop(f"{number:02}.txt")
    house.until(lambda status: status.counts.get("done", 0) == 20)
    assert house.most_open <= 2
    assert len(house.files("archive")) == 20


def test_a_stop_hands_running_jobs_back(open_house: Open) -> None:
    """A job that outlasts the stop timeout goes back to the queue and loses no attempt."""
    house = open_house(stop_seconds=0.2)
    house.drop("slow.txt")
    house.until(lambda status: len(status.running) == 1)
    house.close()
    with Reader(house.path("state", "ledger.db")) as reader:
        (job,) = reader.jobs(limit=5)
    assert (job.state, job.attempt, job.kills) == (State.QUEUED, 0, 0)
    assert house.files("in") >= {"slow.txt"}


def test_a_restart_goes_on_with_what_was_open(open_house: Open) -> None:
    """Jobs that were admitted before a stop are done after the next start."""
    house = open_house()
    house.ask("pause")
    house.drop("one.txt")
    house.until(lambda status: status.queue.queued == 1)
    house.close()
    house.open()
    assert house.until(lambda status: status.queue.queued == 1).state == "paused"
    assert house.ask("resume").ok
    assert house.until_ended(1).recent[0].state == "done"


def test_kept_originals_are_not_done_again(open_house: Open) -> None:
    """With after = keep, neither a rescan nor a restart takes the same bytes twice."""
    house = open_house(watch={"after": "keep"})
    house.drop("one.txt")
    house.until_ended(1)
    house.close()
    house.open()
    house.drop("two.txt")
    status = house.until(lambda status: status.counts.get("done", 0) == 2)
    assert {job.file for job in status.recent} == {"one.txt", "two.txt"}
    house.drop("one.txt", "other bytes now")
    house.until(lambda status: status.counts.get("done", 0) == 3)
    assert {name.split("/")[0] for name in house.files("out")} == {"one", "two", "one (2)"}


def test_a_taken_name_gets_a_number(open_house: Open) -> None:
    """A second drop of the same name is published and archived beside the first."""
    house = open_house()
    house.drop("talk.txt", "first")
    house.until_ended(1)
    house.drop("talk.txt", "second")
    house.until_ended(2)
    assert {name.split("/")[0] for name in house.files("out")} == {"talk", "talk (2)"}
    assert (house.room / "archive/talk.txt").read_text() == "first"
    assert (house.room / "archive/talk (2).txt").read_text() == "second"


def test_a_failed_file_can_be_tried_again(open_house: Open) -> None:
    """`retry` moves a failed original back into its watch, takes its note away, runs it again."""
    house = open_house()
    house.drop("refuses.txt")
    job = house.until_ended(1).recent[0]
    assert house.files("failed") == {"refuses.txt", "refuses.txt.FAILED.txt"}
    reply = house.ask("retry", job=job.job)
    assert reply.ok, reply.text
    status = house.until_ended(2)
    assert [entry.state for entry in status.recent] == ["failed", "failed"]
    assert house.files("failed") == {"refuses.txt", "refuses.txt.FAILED.txt"}


def test_a_ticket_sets_the_priority_and_goes_with_its_file(open_house: Open) -> None:
    """A ticket's priority puts its file first; a bad ticket fails its file with a reason."""
    house = open_house(worker={"lanes": 1})
    house.ask("pause")
    house.drop("first.txt")
    house.until(lambda status: status.queue.queued == 1)
    (house.room / "in/urgent.txt.penstock.toml").write_text("priority = 9\n")
    house.drop("urgent.txt")
    house.until(lambda status: status.queue.queued == 2)
    (house.room / "in/wrong.txt.penstock.toml").write_text("priorty = 9\n")
    house.drop("wrong.txt")
    house.until_ended(1)
    assert "priorty" in (house.room / "failed/wrong.txt.FAILED.txt").read_text()
    house.ask("resume")
    status = house.until_ended(3)
    assert [job.file for job in status.recent] == ["first.txt", "urgent.txt", "wrong.txt"]
    assert "urgent.txt.penstock.toml" in house.files("archive")


def test_cancel_leaves_the_file_where_it_is(open_house: Open) -> None:
    """A cancelled job's file stays in the inbox and is not taken again until asked for."""
    house = open_house()
    house.drop("slow.txt")
    job = house.until(lambda status: len(status.running) == 1).running[0].job
    assert house.ask("cancel", job=job).ok
    assert house.until_ended(1).recent[0].state == "cancelled"
    house.drop("good.txt")
    house.until(lambda status: status.counts.get("done", 0) == 1)
    assert "slow.txt" in house.files("in")
    assert not house.ask("cancel", job=job).ok


def test_why_tells_which_rule_holds_a_path(open_house: Open) -> None:
    """`why` answers for running, ignored, linked, handled and unwatched paths."""
    house = open_house(watch={"after": "keep"})
    house.drop("done.txt")
    house.until_ended(1)
    house.drop("slow.txt")
    house.until(lambda status: len(status.running) == 1)
    (house.room / "in/link.txt").symlink_to("/etc/hostname")
    house.drop("upload.part")

    def why(*names: str) -> str:
        path = msgspec.json.decode(msgspec.json.encode(house.path(*names)))
        return house.ask("why", path=path).text

    assert "running" in why("in", "slow.txt")
    assert "link" in why("in", "link.txt")
    assert "download" in why("in", "upload.part")
    assert "handled already" in why("in", "done.txt")
    assert "no watched folder" in why("elsewhere")
    assert "not there" in why("in", "nothing.txt") or "no such" in why("in", "nothing.txt")


def test_a_reload_takes_new_watches_and_refuses_a_bad_config(
    open_house: Open, tmp_path: Path
) -> None:
    """Reload adds and drops watches without a restart; an error keeps the old settings whole."""
    house = House(tmp_path)
    (old,) = house.settings.watch
    new = msgspec.structs.replace(old, name="other", path=house.path("in2"))
    answers = [msgspec.structs.replace(house.settings, watch=(new,))]
    house.read_again = answers.pop  # the second time there is nothing to read
    house.open()
    try:
        make_folders(answers[0])
        house.service.reload()
        house.until(lambda status: [watch.name for watch in status.watches] == ["other"])
        (tmp_path / "in2" / "two.txt").write_text("hello")
        house.until_ended(1)
        house.service.reload()
        status = house.until(lambda status: bool(status.problems))
        assert "old one stays" in status.problems[0]
        assert [watch.name for watch in status.watches] == ["other"]
    finally:
        house.close()


def test_a_share_that_goes_away_is_offline_and_not_deleted(open_house: Open) -> None:
    """A vanished inbox makes its watch offline; when it is back, its files are taken up."""
    house = open_house(watch={"scan_seconds": 0.1})
    house.ask("pause")
    house.drop("one.txt")
    house.until(lambda status: status.queue.queued == 1)
    (house.room / "in").rename(house.room / "away")
    house.until(lambda status: not status.watches[0].online)
    house.ask("resume")
    status = house.until(lambda status: status.state == "degraded")
    assert status.queue.queued == 1
    (house.room / "away").rename(house.room / "in")
    assert house.until_ended(1).recent[0].state == "done"


ODD_NAMES = (
    b'it\'s "quoted" $(reboot).txt',
    b"new\nline\n<0>WATCHDOG=trigger.txt",
    b"bad\xff\xfebytes.txt",
    "emoji \U0001f3ac \u202egpj.txt".encode(),
    b"x" * 251 + b".txt",
    b"-y --help.txt",
    b" leading and trailing .txt",
    b"a%03d.txt",
    b"http:x.txt",
    b"<img src=x onerror=alert(1)>.txt",
)


def test_odd_names_come_through_unchanged(open_house: Open) -> None:
    """Names with quotes, newlines, bytes that are no text or 255 bytes end like any other."""
    house = open_house()
    inbox = house.path("in")
    for number, name in enumerate(ODD_NAMES):
        with open(os.path.join(inbox, name), "wb") as file:
            file.write(b"%d" % number)
    house.until(lambda status: status.counts.get("done", 0) == len(ODD_NAMES))
    house.close()
    for number, name in enumerate(ODD_NAMES):
        with open(os.path.join(house.path("archive"), name), "rb") as file:
            assert file.read() == b"%d" % number
    results = [name for name in os.listdir(house.path("out")) if name != b".penstock"]
    assert len(results) == len(ODD_NAMES)
    assert all(event in house.events() for event in ("published", "archived"))


def test_what_is_no_file_is_left_alone(open_house: Open) -> None:
    """Links, pipes, sockets and folders with a suffix are never taken; a real file beside is."""
    house = open_house()
    inbox = house.room / "in"
    secret = house.room / "secret.txt"
    secret.write_text("secret")
    (inbox / "link.txt").symlink_to(secret)
    (inbox / "linked").symlink_to(house.room, target_is_directory=True)
    os.mkfifo(inbox / "pipe.txt")
    (inbox / "folder.txt").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(inbox)  # a socket's path has to be short
        listener.bind("socket.txt")
        os.chdir(here)
        house.drop("good.txt")
        house.until(lambda status: status.counts.get("done", 0) == 1)
    house.close()
    assert house.files("archive") == {"good.txt"}
    assert secret.read_text() == "secret"
    assert (inbox / "link.txt").is_symlink()
    assert not any(b"secret" in os.fsencode(name) for name in house.files("out"))


class FullDisk:
    """Stands before a ledger whose disk is full for the next few writes."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.full = 0

    def __getattr__(self, name: str) -> Any:
        if name in ("move", "update", "admit", "remember") and self.full > 0:
            self.full -= 1
            raise NoSpace("database or disk is full")
        return getattr(self._inner, name)


def test_a_full_ledger_disk_delays_and_loses_nothing(open_house: Open) -> None:
    """While the ledger's disk is full everything waits; with room again every file ends."""
    house = open_house()
    house.service.desk.ledger_retry_s = 0.05
    disk = FullDisk(house.service.desk.ledger)
    house.service.desk.ledger = disk  # type: ignore[assignment]
    for number, name in enumerate(("good.txt", "dies.txt", "refuses.txt", "passing.txt")):
        disk.full = 3
        house.drop(name)
        house.until_ended(number + 1)
    status = house.until(lambda status: not status.problems)
    assert {job.file: job.state for job in status.recent} == {
        "good.txt": "done",
        "dies.txt": "failed",
        "refuses.txt": "failed",
        "passing.txt": "done",
    }
