"""Kill -9 of a process that writes to the ledger: what it acknowledged is there."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.values import State
from tests.queue.util import opened, place

ROOT = Path(__file__).parent.parent.parent


def acked_before_kill(path: bytes, seed: int) -> dict[int, tuple[State, int]]:
    """Run the writer, kill it after some lines; the last state it said of each job."""
    wanted = random.Random(seed).randrange(1, 200)
    command = [sys.executable, "-m", "tests.queue.killed_writer", os.fsdecode(path), str(seed)]
    acked: dict[int, tuple[State, int]] = {}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        for number, line in enumerate(child.stdout):
            if number == wanted:
                child.kill()
            if not line.endswith("\n"):
                break  # cut by the kill: never acknowledged
            job, state, attempt = line.split()
            acked[int(job)] = (State(state), int(attempt))
    assert child.returncode == -9
    return acked


def check_kills(room: bytes, seeds: range) -> None:
    known: dict[int, tuple[State, int]] = {}
    for seed in seeds:
        known |= acked_before_kill(place(room), seed)
        ledger = opened(room)  # runs SQLite's quick_check
        for number, (state, attempt) in known.items():
            job = ledger.job(number)
            assert job is not None, f"job {number} was acknowledged and is gone"
            # One call may have been written and not yet said.
            assert job.attempt in (attempt, attempt + 1)
            assert job.state is state or job.attempt == attempt + 1
            told = ledger.history(number)
            assert len(told) == job.attempt + 1  # a move and its history are one
            assert told[-1].state is job.state
            known[number] = (job.state, job.attempt)
        assert sum(ledger.counts().values()) >= len(known)
        ledger.close()


def test_no_kill_loses_what_was_acknowledged(room: bytes) -> None:
    """After each of 10 kills at random points the ledger is whole and holds every said move."""
    check_kills(room, range(10))


@pytest.mark.slow
def test_no_kill_of_many_loses_what_was_acknowledged(room: bytes) -> None:
    """The same after each of 200 kills."""
    check_kills(room, range(1000, 1200))
