"""The daemon's own cost: start, memory, idling, from settled to claimed, ten thousand drops.

    python -m benchmarks.daemon [--files 10000] [--idle 60]

Runs the real command on new folders below the current one and prints each figure beside its goal.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import psutil

from daemon.queue.reader import Reader

COMMAND = (sys.executable, "-m", "daemon.cli.main")
CONFIG = """
[daemon]
status_seconds = {status}
[queue]
size = 64
[[watch]]
name = "drill"
path = "in"
recipe = "noop"
outbox = "out"
archive = "archive"
failed = "failed"
settle_seconds = {settle}
receipts = {receipts}
"""


class House:
    """A daemon over new folders."""

    def __init__(
        self, room: Path, *, settle: float = 0.5, status: float = 2.0, receipts: bool = True
    ):
        self.room = room
        text = CONFIG.format(settle=settle, status=status, receipts=str(receipts).lower())
        (room / "config.toml").write_text(text)
        (room / "in").mkdir()

    def start(self) -> float:
        """Start the daemon; seconds until its status file says ready."""
        begun = time.monotonic()
        with open(self.room / "daemon.log", "w") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "run", "--config", self.room / "config.toml"],
                stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": os.getcwd()},
            )  # fmt: skip
        self.psutil = psutil.Process(self.process.pid)
        while self.status().get("state") != "ready":
            assert self.process.poll() is None, (self.room / "daemon.log").read_text()
            time.sleep(0.002)
        return time.monotonic() - begun

    def status(self) -> dict[str, object]:
        try:
            found: dict[str, object] = json.loads((self.room / "state/status.json").read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def events(self) -> list[dict[str, object]]:
        return self.events_of(self.room)

    @staticmethod
    def events_of(room: Path) -> list[dict[str, object]]:
        """Every line of a room's file_monitor log, oldest first."""
        lines: list[dict[str, object]] = []
        for path in sorted((room / "logs").glob("file_monitor.jsonl*"), reverse=True):
            lines += [json.loads(line) for line in path.read_text().splitlines()]
        return lines


def line(what: str, figure: str, goal: str) -> None:
    print(f"{what:<58} {figure:>16}   goal {goal}", flush=True)


def starting(room: Path) -> None:
    times = []
    for number in range(5):
        folder = room / f"start-{number}"
        folder.mkdir()
        house = House(folder)
        times.append(house.start())
        rss = house.psutil.memory_info().rss
        house.stop()
    line("start to READY on an empty folder, best of 5", f"{min(times):.3f} s", "< 0.3 s")
    line("  median of 5", f"{sorted(times)[2]:.3f} s", "")
    line("resident after the start", f"{rss / 1e6:.1f} MB", "< 60 MB")


def idling(room: Path, seconds: float) -> None:
    folder = room / "idle"
    folder.mkdir()
    house = House(folder)
    archive = folder / "archive"
    archive.mkdir()
    for number in range(10_000):
        (archive / f"{number}.wav").touch()
    house.start()
    (folder / "in" / "one.txt").write_text("so that the worker runs too")
    time.sleep(5)
    before = house.psutil.cpu_times()
    time.sleep(seconds)
    after = house.psutil.cpu_times()
    spent = after.user + after.system - before.user - before.system
    house.stop()
    line(f"idle, of one core over {seconds:.0f} s", f"{100 * spent / seconds:.2f} %", "< 0.5 %")


def moment(event: dict[str, object]) -> float:
    return datetime.fromisoformat(str(event["time"])).timestamp()


def latency(room: Path) -> None:
    folder = room / "latency"
    folder.mkdir()
    house = House(folder, settle=1.0)
    house.start()
    for number in range(21):
        (folder / "in" / f"{number}.txt").write_text("drop")
        while len(list((folder / "archive").glob("*"))) <= number:
            time.sleep(0.01)
    house.stop()
    settled = {
        event["file"]: moment(event) for event in house.events() if event["event"] == "settled"
    }
    started = {
        event["file"]: moment(event) for event in house.events() if event["event"] == "started"
    }
    waits = sorted(started[file] - settled[file] for file in settled)
    line(
        "first settled to claimed, worker off",
        f"{1000 * max(waits):.0f} ms",
        "(worker start included)",
    )
    line("settled to claimed, median of 21", f"{1000 * waits[10]:.0f} ms", "< 100 ms")
    line("settled to claimed, second slowest of 21", f"{1000 * waits[-2]:.0f} ms", "< 100 ms")


def flood(room: Path, files: int) -> None:
    folder = room / "flood"
    folder.mkdir()
    house = House(folder, settle=1.0)
    (folder / "away").mkdir()
    for number in range(files):
        (folder / "away" / f"{number:05}.txt").write_text("x")
    house.start()
    begun = time.monotonic()
    for number in range(files):
        (folder / "away" / f"{number:05}.txt").rename(folder / "in" / f"{number:05}.txt")
    dropped = time.monotonic() - begun
    peak, done = 0, 0
    while done < files:
        assert house.process.poll() is None, (folder / "daemon.log").read_text()[-2000:]
        peak = max(peak, house.psutil.memory_info().rss)
        counts = house.status()["counts"]
        assert isinstance(counts, dict)
        done = counts["done"]
        time.sleep(0.2)
    seconds = time.monotonic() - begun
    cpu = house.psutil.cpu_times()
    house.stop()
    with Reader(os.fsencode(folder / "state/ledger.db")) as reader:
        jobs = reader.jobs(limit=files + 10)
        ends = {state.value: count for state, count in reader.counts().items() if count}
    names = [job.name for job in sorted(jobs, key=lambda job: job.id)]
    results = len([path for path in (folder / "out").iterdir() if path.name != ".penstock"])
    print(f"{files} files dropped in {dropped:.1f} s; ledger {ends}; result folders {results}; ")
    line(
        f"{files} drops: lost / twice",
        f"{files - len(set(names))} / {len(names) - len(set(names))}",
        "0 / 0",
    )
    line("admitted in order of arrival", str(names == sorted(names)), "True")
    line("all done after", f"{seconds:.1f} s", "")
    line("files per second", f"{files / seconds:.0f}", "")
    line("daemon's peak resident memory", f"{peak / 1e6:.1f} MB", "< 120 MB")
    line("daemon's CPU seconds", f"{cpu.user + cpu.system:.1f} s", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--idle", type=float, default=60.0)
    parser.add_argument("--only", choices=("start", "idle", "latency", "flood"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".", prefix="bench-") as name:
        room = Path(name).resolve()
        if args.only in (None, "start"):
            starting(room)
        if args.only in (None, "latency"):
            latency(room)
        if args.only in (None, "idle"):
            idling(room, args.idle)
        if args.only in (None, "flood"):
            flood(room, args.files)


if __name__ == "__main__":
    main()
