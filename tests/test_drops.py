"""Real senders and a real daemon: each file is taken once and only when whole, kills included."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import wave
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from daemon.queue.reader import Reader
from daemon.values import State

CONFIG = """
[queue]
size = 8
[worker]
lanes = 2
[[watch]]
name = "drops"
path = "in"
recipe = "noop"
outbox = "out"
archive = "archive"
failed = "failed"
settle_seconds = 1.0
options = { seconds = 0.2 }
"""
PATIENCE_S = 90.0
STALL_S = 12


class House:
    """A room with a daemon that can be killed and started again."""

    def __init__(self, room: Path) -> None:
        self.room = room
        (room / "config.toml").write_text(CONFIG)
        (room / "in").mkdir()
        (room / "elsewhere").mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.room / "daemon.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "daemon.cli.main", "run", "--config", "config.toml"],
                cwd=self.room, stdout=log, stderr=log,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
            )  # fmt: skip

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        assert self.process
        self.process.terminate()
        assert self.process.wait(60) == 0, (self.room / "daemon.log").read_text()

    def kill_worker(self) -> None:
        """SIGKILL for the worker once it has something to do."""
        assert self.process
        self.until(lambda: bool(self.workers()) and self.count("started") > self.count("published"))
        for worker in self.workers():
            worker.send_signal(signal.SIGKILL)

    def workers(self) -> list[psutil.Process]:
        assert self.process
        return psutil.Process(self.process.pid).children()

    def until(self, so: Callable[[], bool]) -> None:
        begun = time.monotonic()
        while not so():
            assert time.monotonic() - begun < PATIENCE_S, (self.room / "daemon.log").read_text()
            time.sleep(0.05)

    def events(self) -> list[dict[str, object]]:
        path = self.room / "logs" / "file_monitor.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def count(self, event: str) -> int:
        return sum(1 for line in self.events() if line["event"] == event)

    def archived(self) -> dict[str, bytes]:
        top = self.room / "archive"
        return {
            str(path.relative_to(top)): path.read_bytes()
            for path in top.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    house.start()
    yield house
    if house.process and house.process.poll() is None:
        house.kill()


def sound(path: Path, seconds: int = 1) -> bytes:
    """A whole WAV file; returns its bytes."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(bytes(range(256)) * (8000 * 2 * seconds // 256))
    return path.read_bytes()


def check(house: House, wanted: dict[str, bytes]) -> None:
    """Exactly these files ended, once each, unchanged; nothing else lies about."""
    assert house.archived() == wanted
    results = {
        str(path.relative_to(house.room / "out")) for path in house.room.glob("out/**/*.noop.json")
    }
    assert len(results) == len(wanted)
    assert not any("(2)" in name for name in results)
    with Reader(os.fsencode(house.room / "state/ledger.db")) as reader:
        counts = {state: count for state, count in reader.counts().items() if count}
        names = Counter(job.name for job in reader.jobs(limit=1000))
    assert counts == {State.DONE: len(wanted)}
    assert set(names.values()) == {1}
    assert not [path for path in (house.room / "in").rglob("*") if path.is_file()]
    assert not (house.room / "out" / ".penstock").exists()


def send_all(house: House) -> dict[str, bytes]:
    """Files by copy, rsync, rename and a moved-in folder; returns what has to arrive."""
    inbox, away, wanted = house.room / "in", house.room / "elsewhere", {}
    wanted["copied.wav"] = sound(away / "copied.wav", 3)
    shutil.copyfile(away / "copied.wav", inbox / "copied.wav")
    wanted["renamed in.wav"] = sound(away / "renamed.wav")
    (away / "renamed.wav").rename(inbox / "renamed in.wav")
    if shutil.which("rsync"):
        wanted["synced.wav"] = sound(away / "synced.wav", 2)
        subprocess.run(["rsync", "-a", away / "synced.wav", f"{inbox}/"], check=True)
    (away / "folder" / "deep").mkdir(parents=True)
    for number in range(20):
        name = f"folder/{'deep/' if number % 2 else ''}{number:02}.wav"
        wanted[name] = sound(away / name)
    (away / "folder").rename(inbox / "folder")
    return wanted


def test_every_way_in_is_taken_once_even_through_kills(house: House) -> None:
    """Copies, rsync, renames, a moved-in folder of 20: each once and whole, through kill -9."""
    wanted = send_all(house)
    house.kill_worker()
    house.until(lambda: house.count("published") >= 4)
    house.kill()
    house.start()
    house.until(lambda: len(house.archived()) >= len(wanted))
    house.stop()
    check(house, wanted)


@pytest.mark.slow
def test_a_sender_that_stalls_is_waited_for(house: House) -> None:
    """A write that pauses for 12 s in the middle is taken once, whole, and not before its end."""
    whole = sound(house.room / "elsewhere" / "slow.wav", 2)
    with open(house.room / "in" / "slow.wav", "wb", buffering=0) as out:
        out.write(whole[: len(whole) // 2])
        time.sleep(STALL_S)
        assert house.count("settled") == 0
        out.write(whole[len(whole) // 2 :])
    house.until(lambda: len(house.archived()) == 1)
    house.stop()
    check(house, {"slow.wav": whole})


@pytest.mark.slow
def test_a_sender_that_closes_and_comes_back_is_waited_for(house: House) -> None:
    """A file sent in closed parts, 6 s apart, is taken once it is as long as its header says."""
    whole = sound(house.room / "elsewhere" / "parts.wav", 2)
    third = len(whole) // 3
    for part in (whole[:third], whole[third : 2 * third], whole[2 * third :]):
        with open(house.room / "in" / "parts.wav", "ab") as out:
            out.write(part)
        time.sleep(6)
    house.until(lambda: len(house.archived()) == 1)
    house.stop()
    check(house, {"parts.wav": whole})
