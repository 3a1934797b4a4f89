"""The soak: many files, one in twenty of them a fault of some kind; nothing may be lost."""

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from daemon.queue.reader import Reader

CONFIG = """
[daemon]
status_seconds = 0.5
log_level = "error"
[queue]
retry_seconds = 0.1
disk_low_gb = 0
disk_stop_gb = 0
[worker]
lanes = 2
silent_seconds = 1.5
[[watch]]
name = "soak"
path = "in"
recipe = "noop"
outbox = "out"
archive = "archive"
failed = "failed"
settle_seconds = 0.2
receipts = false
"""
# What each kind of fault has to end as; `once` kinds recover.
KINDS = {
    "dies-once": "done",
    "dies": "failed",
    "aborts-once": "done",
    "exits-once": "done",
    "garbles-once": "done",
    "mute-once": "done",
    "refuses": "failed",
    "passing": "done",
    "sticky-once": "done",
    "sticky": "failed",
    "memory": "done",
    "starved": "failed",
}
SHARE = 0.05
LIMIT_S = 1500
MIB = 1 << 20


def drop(room: Path, files: int, share: float) -> dict[str, str]:
    """The files, and how each has to end."""
    (room / "config.toml").write_text(CONFIG)
    (room / "in").mkdir()
    chance = random.Random(7)
    kinds = sorted(KINDS)
    wanted = {}
    for number in range(files):
        kind = kinds[number % len(kinds)] if chance.random() < share else "good"
        name = f"{number:05}-{kind}.txt"
        (room / "in" / name).write_text("x" * 20)
        wanted[name] = KINDS.get(kind, "done")
    return wanted


def soak(room: Path, files: int, share: float) -> None:
    wanted = drop(room, files, share)
    run = subprocess.run(
        [sys.executable, "-m", "tests.fakes.soak_daemon", str(room / "config.toml")],
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )  # fmt: skip
    assert run.returncode == 1, run.stderr[-3000:]  # some files failed, the daemon did not
    with Reader(os.fsencode(room / "state/ledger.db")) as reader:
        jobs = reader.jobs(limit=2 * files)
    ends = {os.fsdecode(job.name): job.state.value for job in jobs}
    lost = wanted.keys() - ends.keys()
    wrong = {name: end for name, end in ends.items() if wanted.get(name) != end}
    rows = [line.split() for line in run.stdout.splitlines()]
    restarts = int(rows[-1][1])
    sizes = [(int(row[0]), int(row[1])) for row in rows[:-1]]
    slope = rise(sizes)
    kinds = Counter(name.split("-", 1)[1].removesuffix(".txt") for name in wanted)
    print(f"\nfiles {files}, lost {len(lost)}, twice {len(jobs) - len(ends)}, other ends {wrong}")
    for kind, count in sorted(kinds.items()):
        print(f"  {kind:<14} {count:>6}   ends {KINDS.get(kind, 'done')}")
    quarantined = sum(1 for end in ends.values() if end == "failed")
    print(f"quarantined {quarantined}, worker restarts {restarts}, daemon deaths 0")
    print(f"daemon RSS {[round(size / MIB, 1) for _at, size in sizes]} MiB,", end=" ")
    print("slope", "unknown" if slope is None else f"{slope / MIB:.2f} MiB per 1000 files")
    assert not lost
    assert not wrong
    assert len(jobs) == len(ends)
    assert slope is None or slope < MIB
    for name, end in wanted.items():
        assert (room / ("archive" if end == "done" else "failed") / name).exists(), name


def rise(sizes: list[tuple[int, int]]) -> float | None:
    """Bytes per 1000 files over the later half, when every table has its size."""
    late = sizes[len(sizes) // 2 :]
    if len(late) < 3:
        return None
    return (late[-1][1] - late[0][1]) / (late[-1][0] - late[0][0]) * 1000


def test_a_short_soak_loses_nothing(tmp_path: Path) -> None:
    """Two hundred files with every kind of fault: each ends once, as its kind has to."""
    soak(tmp_path, 240, 0.2)


@pytest.mark.slow
def test_ten_thousand_files_with_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """10 000 files, 5 % faults: none lost, none twice, memory flat; prints the table."""
    with capsys.disabled():
        soak(tmp_path, 10_000, SHARE)
