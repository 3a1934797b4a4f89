"""One order's walk in the worker: checkpoints, cancelling, faults, and the real worker process."""

import dataclasses
import os
import queue
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.core.contract import Beat, Failed, Fault, Finished, FromWorker, Order
from pipeline.runner import run_order
from tests.fakes.bench import bench_for
from tests.fakes.sounds import tone, write_sound

WAIT_S = 30.0


class Ear:
    """Keeps what a walk says; may cancel it at its n-th beat."""

    def __init__(self) -> None:
        self.said: list[FromWorker] = []
        self.cancelled = threading.Event()
        self.cancel_at = 0
        self.hear: Callable[[Beat], None] = lambda _beat: None
        self.token = threading.Lock()

    def say(self, message: FromWorker) -> None:
        self.said.append(message)
        if isinstance(message, Beat):
            self.hear(message)
            self.cancel_at -= 1
            if self.cancel_at == 0:
                self.cancelled.set()

    def run(self, order: Order) -> Finished | Failed:
        bench = dataclasses.replace(bench_for(self.say), token=self.token)
        return run_order(order, bench, self.cancelled)


@pytest.fixture
def order(room: bytes) -> Order:
    os.mkdir(os.path.join(room, b"in"))
    with open(os.path.join(room, b"in", b"talk.txt"), "wb") as file:
        file.write(b"hello")
    return Order(
        job=1, attempt=1, recipe="noop", root=os.path.join(room, b"in"), name=b"talk.txt",
        mark="5-1-1", stem=b"talk", scratch=os.path.join(room, b"scratch", b"1"),
        staging=os.path.join(room, b"out", b".penstock", b"1"),
    )  # fmt: skip


def changed(order: Order, **changes: Any) -> Order:
    return msgspec.structs.replace(order, **changes)


def finished(answer: Finished | Failed) -> Finished:
    assert isinstance(answer, Finished), answer
    return answer


def failed(answer: Finished | Failed) -> Failed:
    assert isinstance(answer, Failed), answer
    return answer


def test_outputs_are_told_with_their_sizes(order: Order) -> None:
    """A finished walk names each output as it lies in staging, with its size."""
    (output,) = finished(Ear().run(order)).outputs
    assert output.name == b"talk.noop.json"
    assert os.path.getsize(os.path.join(order.staging, output.name)) == output.size > 0


def test_a_second_attempt_resumes_at_the_checkpoint(order: Order) -> None:
    """A stage that finished before is not run again, and its report says so."""
    Ear().run(order)
    again = finished(Ear().run(changed(order, attempt=2)))
    assert [report.resumed for report in again.reports] == [True]


@pytest.mark.parametrize(
    "changes", [{"mark": "6-2-2"}, {"options": {"seconds": 0.01}}, {"device": "cpu"}]
)
def test_a_checkpoint_of_other_bytes_or_options_is_void(
    order: Order, changes: dict[str, Any]
) -> None:
    """New bytes, options or device run every stage again."""
    Ear().run(order)
    again = finished(Ear().run(changed(order, **changes)))
    assert [report.resumed for report in again.reports] == [False]


def test_a_checkpoint_whose_output_is_gone_or_cut_is_void(order: Order) -> None:
    """Outputs that are missing or have another size are made again."""
    (output,) = finished(Ear().run(order)).outputs
    path = os.path.join(order.staging, output.name)
    os.truncate(path, 3)
    assert not finished(Ear().run(order)).reports[0].resumed
    shutil.rmtree(order.staging)
    assert not finished(Ear().run(order)).reports[0].resumed
    assert os.path.getsize(path) == output.size


def test_a_garbled_checkpoint_is_void(order: Order) -> None:
    """A checkpoint file that can not be read is as if it were not there."""
    Ear().run(order)
    with open(os.path.join(order.scratch, b"noop.done.json"), "wb") as file:
        file.write(b'{"key": ')
    assert not finished(Ear().run(order)).reports[0].resumed


def test_leftovers_of_other_options_are_swept_from_staging(order: Order) -> None:
    """Only what the finished stages named is left in staging."""
    os.makedirs(order.staging)
    with open(os.path.join(order.staging, b"stale.mp4"), "wb") as file:
        file.write(b"x")
    Ear().run(order)
    assert os.listdir(order.staging) == [b"talk.noop.json"]


def test_a_cancelled_job_stops_at_its_next_beat(order: Order) -> None:
    """Cancelling ends a long stage at its next beat, with the fault CANCELLED."""
    ear = Ear()
    ear.cancel_at = 2
    answer = failed(ear.run(changed(order, options={"seconds": 60.0})))
    assert answer.fault is Fault.CANCELLED


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"name": b"empty.txt"}, Fault.BAD_INPUT),
        ({"name": b"missing.txt"}, Fault.TRANSIENT),
        ({"name": b"link.txt"}, Fault.BAD_INPUT),
        ({"name": b"../secret.txt"}, Fault.BAD_INPUT),
        ({"name": b"fifo.txt"}, Fault.BAD_INPUT),
        ({"name": b"folder.txt"}, Fault.BAD_INPUT),
    ],
)
def test_what_is_no_good_file_has_a_fault_and_a_reason(
    order: Order, room: bytes, changes: dict[str, Any], fault: Fault
) -> None:
    """Empty, linked, outside, pipe and folder inputs fail for good; a missing one for now."""
    with open(os.path.join(room, b"secret.txt"), "wb") as file:
        file.write(b"secret")
    with open(os.path.join(order.root, b"empty.txt"), "wb"):
        pass
    os.symlink(b"../secret.txt", os.path.join(order.root, b"link.txt"))
    os.mkfifo(os.path.join(order.root, b"fifo.txt"))
    os.mkdir(os.path.join(order.root, b"folder.txt"))
    answer = failed(Ear().run(changed(order, **changes)))
    assert answer.fault is fault, answer
    assert answer.reason


def test_a_stage_that_waits_for_the_card_keeps_beating(order: Order, room: bytes) -> None:
    """While another job holds the card, a gpu stage beats, and runs once the card is free."""
    write_sound(Path(os.fsdecode(order.root)) / "tone.wav", tone(0.2), 48_000, "pcm_s16le")
    ear = Ear()
    beats: queue.SimpleQueue[Beat] = queue.SimpleQueue()
    ear.hear = beats.put
    wanted = changed(
        order, name=b"tone.wav", recipe="visualize", device="cpu",
        options={"width": 320, "height": 180},
    )  # fmt: skip
    answers: queue.SimpleQueue[Finished | Failed] = queue.SimpleQueue()
    with ear.token:
        lane = threading.Thread(target=lambda: answers.put(ear.run(wanted)))
        lane.start()
        while beats.get(timeout=WAIT_S).fraction is not None:
            continue
        assert answers.empty()
    assert finished(answers.get(timeout=WAIT_S)).outputs
    lane.join(WAIT_S)


def test_a_cpu_stage_needs_no_token(order: Order) -> None:
    """A job of the cpu lane runs while another one holds the card."""
    ear = Ear()
    with ear.token:
        finished(ear.run(order))


def test_staging_that_can_not_be_made_is_passing(order: Order, room: bytes) -> None:
    """A file where the outbox should be is a passing fault with the system's reason."""
    with open(os.path.join(room, b"out"), "wb"):
        pass
    assert failed(Ear().run(order)).fault is Fault.TRANSIENT
