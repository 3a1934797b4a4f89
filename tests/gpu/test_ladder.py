"""The ladder and the manager around a stage: fake card, real exceptions, real managers."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.core.contract import Note
from pipeline.core.errors import BadInput, DeviceLost, NoMemory, Poisoned
from pipeline.core.gauge import Gauge
from pipeline.core.memory_settings import MemorySettings
from pipeline.core.stage import Load
from pipeline.gpu.history import History
from pipeline.gpu.ladder import Step, climb, steps
from pipeline.gpu.manager import Memory
from pipeline.gpu.plan import Fit, Need, Room
from pipeline.gpu.usage import StageWatch
from tests.fakes.card import FakeCard

GB = 1_000_000_000
OOM = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 11.76 GiB"


class House:
    """A manager over a fake card, with what it said."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.card = FakeCard(12 * GB)
        self.said: list[Note] = []
        self.now = 0.0
        history = History.open(os.fsencode(path / "memory.db"))
        self.memory = Memory(
            MemorySettings(**settings), self.card.gauge(), history,
            self.said.append, clock=lambda: self.now, sleep=self.pass_time,
        )  # fmt: skip

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.memory.sample()

    def events(self) -> list[str]:
        return [note.event for note in self.said]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_stage_that_fits_runs_once(house: House) -> None:
    """Without trouble there is one run and no line about recovery."""
    assert climb(house.memory, "s", steps(frugal=False, share=0.25), lambda _s, _w: 7) == 7
    assert "recovery" not in house.events()


def test_the_steps_go_down_in_order(house: House) -> None:
    """As planned, a quarter, every saving: each only after memory ran out, each told before."""
    seen: list[Step] = []

    def run(step: Step, _watch: StageWatch) -> str:
        seen.append(step)
        if not step.frugal:
            raise RuntimeError(OOM)
        return "done"

    assert climb(house.memory, "s", steps(frugal=False, share=0.25), run) == "done"
    assert [(step.share, step.frugal) for step in seen] == [
        (1.0, False),
        (0.25, False),
        (0.0, True),
    ]
    assert house.events().count("recovery") == 2
    assert house.events().count("cleanup") == 2


def test_after_the_last_step_the_stage_gives_up(house: House) -> None:
    """NoMemory is raised only when even the most frugal run did not fit."""

    def run(_step: Step, _watch: StageWatch) -> None:
        raise RuntimeError(OOM)

    with pytest.raises(NoMemory, match="memory ran out"):
        climb(house.memory, "s", steps(frugal=False, share=0.25), run)
    with pytest.raises(NoMemory):
        climb(house.memory, "s", steps(frugal=True, share=0.25), run)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (BadInput("no sound"), BadInput),
        (ValueError("a plain bug"), ValueError),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), Poisoned),
        (RuntimeError("CUDA error: device-side assert triggered"), Poisoned),
        (RuntimeError("GPU is lost"), DeviceLost),
    ],
)
def test_other_errors_are_not_retried(
    house: House, error: Exception, raised: type[Exception]
) -> None:
    """What is not a lack of memory is tried once and keeps or gets its meaning."""
    runs: list[Step] = []

    def run(step: Step, _watch: StageWatch) -> None:
        runs.append(step)
        raise error

    with pytest.raises(raised):
        climb(house.memory, "s", steps(frugal=False, share=0.25), run)
    assert len(runs) == 1


def test_what_the_failed_run_held_is_let_go_before_the_next(house: House) -> None:
    """Memory that the failing stage's locals hold is free when the retry begins."""

    def run(step: Step, _watch: StageWatch) -> int:
        assert house.card.reading(0.0).allocated == 0
        held = house.card.allocate(8 * GB)
        if step.share == 1.0:
            house.card.allocate(8 * GB)
        assert held
        return 1

    assert climb(house.memory, "s", steps(frugal=False, share=0.25), run) == 1


def test_a_batch_that_ran_out_is_never_planned_again(house: House) -> None:
    """After an OOM at a batch, the same load gets a smaller one, also from a new manager."""
    load = Load(model="m", device="cuda", seconds=30.0)
    batches: list[int] = []

    def run(step: Step, watch: StageWatch) -> int:
        batch = house.memory.choose_batch(watch, step.share, lambda: None, 8, load)
        batches.append(batch)
        blocks = [house.card.allocate(2 * GB) for _item in range(batch)]
        house.memory.sample()
        return len(blocks)

    for _file in range(30):
        climb(house.memory, "s", steps(frugal=False, share=0.25), run)
        house.card.free_all()
    ooms = [note for note in house.said if note.event == "recovery"]
    assert len(ooms) <= 1
    assert max(batches[-5:]) <= 5
    assert min(batches[-5:]) >= 4  # five fit; at least 0.85 of that, rounded down


def test_the_regular_cleanup_comes_after_every_second_file(house: House) -> None:
    """Two files, one standard cleanup, whatever the pressure."""
    for _file in range(6):
        house.memory.after_file()
    assert house.events().count("cleanup") == 3


def test_a_worker_asks_to_be_replaced_after_its_share_of_files(tmp_path: Path) -> None:
    """After the configured number of files there is a reason to begin afresh."""
    memory = House(tmp_path, recycle_files=3).memory
    assert [bool(memory.after_file()) for _file in range(3)] == [False, False, True]


def test_what_was_planned_is_no_pressure(house: House) -> None:
    """A stage that fills the card by plan raises no tier; the same memory unplanned does."""
    need = Need(fixed=9 * GB, what="planned")
    answer = house.memory.planner.reserve(
        need, Room(reading=house.memory.last_reading, capacity=house.memory.capacity())
    )
    assert isinstance(answer, Fit)
    with answer.lease:
        blocks = [house.card.allocate(9 * GB)]
        for _second in range(20):
            house.pass_time(1.0)
        assert "tier" not in house.events()
    for _second in range(20):
        house.pass_time(1.0)
    assert "tier" in house.events()
    assert blocks


def test_where_memory_is_tight_files_run_one_at_a_time(house: House) -> None:
    """From the aggressive tier on the status asks for one file at a time, and takes it back."""
    assert house.memory.status()["alone"] is False
    blocks = [house.card.allocate(8_600_000_000)]
    for _second in range(15):
        house.pass_time(1.0)
    assert house.memory.status()["alone"] is True
    blocks.clear()
    house.card.free_all()
    for _second in range(60):
        house.pass_time(1.0)
    assert house.memory.status()["alone"] is False


def test_waiting_for_room_has_an_end(house: House) -> None:
    """When nothing frees the card, the wait ends with NoMemory within its deadlines."""
    blocks = [house.card.allocate(10 * GB)]
    house.pass_time(1.0)
    beats: list[int] = []
    with pytest.raises(NoMemory, match="did not fall"):
        house.memory.wait_for_room(lambda: beats.append(1))
    assert beats
    assert house.now < 3 * 120.0 + 60.0
    assert blocks
    assert "tier" in house.events()


def test_a_neighbour_that_fills_the_card_does_not_stop_us_for_ever(house: House) -> None:
    """With nothing of ours on the card, a full card is no pressure of ours."""
    house.card.neighbour = 11 * GB
    for _second in range(30):
        house.pass_time(1.0)
    assert house.memory.admits


def test_the_status_is_plain_json(house: House) -> None:
    """What the worker tells about memory can be written to the status file."""
    told = msgspec.json.decode(msgspec.json.encode(house.memory.status()))
    assert told["card"]["tier"] == "normal"
    assert told["budget"]


def test_without_a_card_everything_still_works(tmp_path: Path) -> None:
    """No NVML, no card: samples, cleanups and plans go on with the host's memory."""
    memory = Memory(
        MemorySettings(), Gauge(gpu=False), History.open(b":memory:"), lambda _note: None
    )
    memory.sample()
    memory.after_file()
    assert memory.admits
    assert memory.room("cpu")


STARVED = """
import resource, sys
import numpy as np
from pipeline.core.contract import Usage
from pipeline.gpu.ladder import climb, steps
from tests.fakes.bench import bench_for

said = []
memory = bench_for(said.append).memory
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000, resource.RLIM_INFINITY))

def run(step, _watch):
    items = np.ones(int(step.share * 1_000_000_000) + 1, dtype=np.uint8)
    return len(items)

print(climb(memory, "s", steps(frugal=False, share=0.25), run))
print([note.event for note in said])
"""


def test_a_real_lack_of_host_memory_is_recovered() -> None:
    """Under a real address-space limit numpy's own error leads to the quarter, which fits."""
    root = Path(__file__).parent.parent.parent
    run = subprocess.run(
        [sys.executable, "-c", STARVED], capture_output=True, text=True, check=False,
        timeout=60, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    size, events = run.stdout.splitlines()
    assert size == "250000001"
    assert events == "['cleanup', 'recovery']"
