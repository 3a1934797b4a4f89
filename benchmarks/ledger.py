"""Durable moves a second of the ledger beside bare one-row SQLite commits, same run, same disk.

    python -m benchmarks.ledger [FOLDER]

FOLDER (default: a temporary one in the current directory) decides which disk is measured.
"""

import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time

from daemon.queue.ledger import Ledger
from daemon.queue.rows import Changes
from daemon.values import Job, NewJob, Sighting, State

GOAL_PER_S = 200.0
ROUNDS = 10
MOVES = 100  # in each round
BATCH = 10_000
TIMES = 5


def fs_type(folder: bytes) -> str:
    """The file system of a folder, as /proc/self/mountinfo names it."""
    device = os.stat(folder).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            if line.split()[2] == wanted:
                return line.partition(" - ")[2].split()[0]
    return "unknown"


def new_jobs(first: int, number: int) -> list[NewJob]:
    return [
        NewJob(
            watch="talks",
            root=b"/srv/media/inbox/talks",
            sighting=Sighting(name=b"drop/talk-%06d.wav" % n, size=n, mtime_ns=n, ino=n),
            recipe="transcribe",
            options={"language": "en"},
        )
        for n in range(first, first + number)
    ]


class Bare:
    """The fastest durable thing that SQLite does: one narrow row a commit."""

    def __init__(self, path: bytes) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("CREATE TABLE ack (id INTEGER PRIMARY KEY, state TEXT)")

    def commit(self) -> None:
        self._db.execute("INSERT INTO ack (state) VALUES ('claimed')")

    def close(self) -> None:
        self._db.close()


def moved(ledger: Ledger, job: Job, now: float) -> Job:
    if job.state is State.QUEUED:
        return ledger.move(job, State.CLAIMED, now, attempt=job.attempt + 1)
    return ledger.move(job, State.QUEUED, now, event="retry", reason="a share blinked")


def measure(folder: bytes) -> tuple[list[float], list[float], int]:
    """Seconds of each move and of each bare commit, in turns, and the bytes of a full ledger."""
    ledger = Ledger.open(os.path.join(folder, b"ledger.db"), time.time())
    bare = Bare(os.path.join(folder, b"bare.db"))
    batches: list[float] = []
    for turn in range(TIMES):
        jobs = new_jobs(turn * BATCH, BATCH)
        start = time.perf_counter()
        admitted = ledger.admit(jobs, time.time())
        batches.append(time.perf_counter() - start)
    print(f"admit {BATCH} files, one transaction: median {statistics.median(batches):.2f} s")
    start = time.perf_counter()
    ledger.admit(jobs, time.time())
    print(f"admit the same {BATCH} again (no-op): {time.perf_counter() - start:.2f} s")

    ended = [(job, State.CANCELLED, Changes(stays=True)) for job in ledger.open_jobs()[:-BATCH]]
    start = time.perf_counter()
    ledger.move_all(ended, time.time())
    seconds = time.perf_counter() - start
    print(f"move_all, {len(ended)} moves in one transaction: {len(ended) / seconds:.0f} /s")
    start = time.perf_counter()
    stayed = ledger.stayed("talks")
    print(f"stayed(), {len(stayed)} files: {(time.perf_counter() - start) * 1e3:.0f} ms")

    moves: list[float] = []
    commits: list[float] = []
    queue = admitted[:64]
    for _round in range(ROUNDS):
        for number in range(MOVES):
            at = number % len(queue)
            start = time.perf_counter()
            queue[at] = moved(ledger, queue[at], time.time())
            moves.append(time.perf_counter() - start)
        for _number in range(MOVES):
            start = time.perf_counter()
            bare.commit()
            commits.append(time.perf_counter() - start)
    bare.close()
    ledger.close()
    return moves, commits, os.path.getsize(os.path.join(folder, b"ledger.db"))


def line(what: str, seconds: list[float]) -> float:
    """Print rate and percentiles; returns the rate per second."""
    rate = len(seconds) / sum(seconds)
    ordered = sorted(seconds)
    p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    print(f"{what}: {rate:6.0f} /s   p50 {p50 * 1e3:.2f} ms   p99 {p99 * 1e3:.2f} ms")
    return rate


def main() -> None:
    place = os.fsencode(sys.argv[1]) if len(sys.argv) > 1 else os.getcwdb()
    kind = fs_type(place)
    folder = tempfile.mkdtemp(prefix=b"penstock-ledger-", dir=place)
    print(f"file system: {kind}, SQLite {sqlite3.sqlite_version}")
    if kind in ("tmpfs", "ramfs"):
        print("note: this is memory, not a disk; these figures say nothing about durability")
    try:
        moves, commits, size = measure(folder)
        rate = line("Ledger.move          ", moves)
        peer = line("bare one-row commit  ", commits)
        print(f"ratio {rate / peer:.2f}; goal {GOAL_PER_S:.0f} moves/s: "
              f"{'met' if rate >= GOAL_PER_S else 'MISSED'}")  # fmt: skip
        start = time.perf_counter()
        ledger = Ledger.open(os.path.join(folder, b"ledger.db"), time.time())
        opened = time.perf_counter() - start
        ledger.close()
        print(f"open with quick_check, {TIMES * BATCH} jobs, {size / 1e6:.0f} MB: {opened:.2f} s")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
