"""How long recovery takes: from a killed worker, and from memory that ran out, to the next start.

    python -m benchmarks.recovery

A real daemon; for the kill a real worker, for the lack of memory one that says so by file name.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.daemon import House, line, moment

OOM = """
[daemon]
status_seconds = 0.2
[[watch]]
name = "drill"
path = "in"
recipe = "noop"
outbox = "out"
archive = "archive"
failed = "failed"
settle_seconds = 0.1
"""


def killed(room: Path) -> None:
    """SIGKILL for the worker in the middle of a file."""
    house = House(room, settle=0.1)
    config = room / "config.toml"
    config.write_text(config.read_text() + "options = { seconds = 2.0 }\n")
    house.start()
    for number in range(3):
        (room / "in" / f"{number}.txt").write_text("drop")
    while not any(event["event"] == "started" for event in house.events()):
        time.sleep(0.02)
    time.sleep(0.5)
    (worker,) = psutil.Process(house.process.pid).children()
    at = time.time()
    worker.send_signal(signal.SIGKILL)
    while len(list((room / "archive").glob("*"))) < 3:
        time.sleep(0.02)
    house.stop()
    again = [moment(e) for e in house.events() if e["event"] == "started" and moment(e) > at]
    line("SIGKILL of the worker to the next start", f"{min(again) - at:.2f} s", "<= 5 s")
    done = sum(1 for event in house.events() if event["event"] == "published")
    line("files done of 3", str(done), "3")


def starved(room: Path) -> None:
    """Memory runs out; the same file goes on in a fresh worker."""
    (room / "config.toml").write_text(OOM)
    (room / "in").mkdir()
    (room / "in" / "memory.txt").write_text("drop")
    subprocess.run(
        [sys.executable, "-m", "tests.fakes.soak_daemon", str(room / "config.toml")],
        check=True, capture_output=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    events = House.events_of(room)
    failed = next(moment(event) for event in events if event["event"] == "retried")
    again = next(moment(e) for e in events if e["event"] == "started" and moment(e) >= failed)
    line("memory ran out to the start in a fresh worker", f"{again - failed:.2f} s", "<= 15 s")


def main() -> None:
    with tempfile.TemporaryDirectory(dir=".", prefix="bench-") as name:
        for number, part in enumerate((killed, starved)):
            room = Path(name).resolve() / str(number)
            room.mkdir()
            part(room)


if __name__ == "__main__":
    main()
