"""The link to the worker process: real children that work, die, fall silent or garble."""

import os
import queue
import signal
import sys
from collections.abc import Iterator
from typing import TypeVar

import psutil
import pytest

from daemon.dispatch.executor import ExecutorEvent, Gone, Heard
from daemon.dispatch.worker_link import WorkerLink
from daemon.settings import WorkerSettings
from pipeline.core.contract import Failed, Fault, Finished, FromWorker, Hello, Order
from pipeline.core.errors import LinkError

WAIT_S = 20.0
FAKE = (sys.executable, "-m", "tests.fakes.worker")
M = TypeVar("M", bound=FromWorker)


class Ends:
    """A link and the queue that it posts to."""

    def __init__(self, command: tuple[str, ...], settings: WorkerSettings) -> None:
        self.events: queue.Queue[ExecutorEvent] = queue.Queue()
        self.link = WorkerLink(settings, self.events.put, command=command)

    def hear(self, kind: type[M]) -> M:
        """The next message of a kind; others are passed over."""
        while True:
            event = self.events.get(timeout=WAIT_S)
            assert isinstance(event, Heard), event
            if isinstance(event.message, kind):
                return event.message

    def gone(self) -> Gone:
        while True:
            event = self.events.get(timeout=WAIT_S)
            if isinstance(event, Gone):
                return event


@pytest.fixture
def fake() -> Iterator[Ends]:
    ends = Ends(FAKE, WorkerSettings())
    yield ends
    ends.link.close(5.0)


def order(room: bytes, name: bytes, recipe: str = "noop") -> Order:
    return Order(
        job=7, attempt=1, recipe=recipe, root=room, name=name, mark="m", stem=b"out",
        scratch=os.path.join(room, b"scratch"), staging=os.path.join(room, b"staging"),
    )  # fmt: skip


def test_an_order_comes_back_finished(fake: Ends, room: bytes) -> None:
    """A started worker says hello, takes an order and tells its outputs."""
    fake.link.start()
    assert fake.hear(Hello).pid == fake.link.pid
    fake.link.submit(order(room, b"talk.wav"))
    assert [output.name for output in fake.hear(Finished).outputs] == [b"out.txt"]


def test_names_that_are_no_text_travel_unchanged(room: bytes) -> None:
    """A file whose name is not valid UTF-8 reaches the real worker's recipe and comes back done."""
    name = b"bad\xff\nname.bin"
    with open(os.path.join(room, name), "wb") as file:
        file.write(b"data")
    ends = Ends((), WorkerSettings(lanes=1))
    try:
        ends.link.start()
        ends.hear(Hello)
        ends.link.submit(order(room, name))
        finished = ends.hear(Finished)
        assert os.path.getsize(os.path.join(room, b"staging", finished.outputs[0].name)) > 0
    finally:
        ends.link.close(5.0)


def test_a_killed_worker_is_told_with_its_signal_and_last_words(fake: Ends, room: bytes) -> None:
    """A worker that dies by SIGKILL is reported with the signal and what it last printed."""
    fake.link.start()
    fake.hear(Hello)
    fake.link.submit(order(room, b"dies.wav"))
    gone = fake.gone()
    assert gone.status == -signal.SIGKILL
    assert "last words" in gone.tail
    assert not fake.link.up


def test_a_worker_can_be_started_again(fake: Ends, room: bytes) -> None:
    """After an end the next start makes a new process of the next generation, which works."""
    fake.link.start()
    fake.hear(Hello)
    fake.link.submit(order(room, b"exits.wav"))
    assert fake.gone().status == 3
    fake.link.start()
    assert fake.link.generation == 2
    fake.hear(Hello)
    fake.link.submit(order(room, b"talk.wav"))
    fake.hear(Finished)


def test_kill_ends_the_whole_group(fake: Ends) -> None:
    """Killing the worker leaves no process of its group behind."""
    fake.link.start()
    pid = fake.hear(Hello).pid
    fake.link.kill()
    assert fake.gone().status == -signal.SIGKILL
    assert not psutil.pid_exists(pid)


def test_a_garbling_worker_is_replaced(fake: Ends, room: bytes) -> None:
    """A line that is no answer ends the worker instead of being guessed at."""
    fake.link.start()
    fake.hear(Hello)
    fake.link.submit(order(room, b"garbles.wav"))
    assert fake.gone().status == -signal.SIGKILL


def test_cancel_reaches_the_job(fake: Ends, room: bytes) -> None:
    """A cancelled job is answered as cancelled."""
    fake.link.start()
    fake.hear(Hello)
    fake.link.submit(order(room, b"slow.wav"))
    fake.link.cancel(7)
    assert fake.hear(Failed).fault is Fault.CANCELLED


def test_orders_to_nobody_are_refused(fake: Ends, room: bytes) -> None:
    """Submitting without a worker raises LinkError and sends nothing."""
    with pytest.raises(LinkError):
        fake.link.submit(order(room, b"talk.wav"))


def test_a_missing_interpreter_is_a_clear_error(room: bytes) -> None:
    """A [worker] python that does not exist is a LinkError, not a crash of the loop."""
    ends = Ends((), WorkerSettings(python="/nowhere/python3"))
    with pytest.raises(LinkError, match="can not be started"):
        ends.link.start()


def test_the_worker_leaves_when_asked(fake: Ends) -> None:
    """Stop ends an idle worker with status 0."""
    fake.link.start()
    fake.hear(Hello)
    fake.link.stop()
    assert fake.gone().status == 0
