"""The worker process: takes orders on one descriptor, answers on another, owns the card.

Started by the daemon as `python -m pipeline.worker --orders FD --answers FD`, in a session of its
own. It is disposable: it holds nothing that a restart needs, dies with its daemon, and everything
that libraries print goes to the log, never into the answers.
"""

import argparse
import ctypes
import logging
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from pipeline.core.contract import (
    Alive,
    Cancel,
    Failed,
    Fault,
    FromWorker,
    Hello,
    Order,
    Recycle,
    Stop,
    decode_order,
    encode_line,
)
from pipeline.core.gauge import Gauge
from pipeline.core.memory_settings import MemorySettings
from pipeline.gpu.history import History
from pipeline.gpu.manager import Memory
from pipeline.runner import Bench, run_order

ALIVE_EVERY_S = 1.0
OOM_SCORE = "500"  # of 1000
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class MemoryAt:
    """How memory is managed, and where what is learned about it lies."""

    settings: MemorySettings
    learned: bytes


class Worker:
    """Lanes that run orders, one thread that reads them, one that says that we are alive."""

    def __init__(
        self, orders: int, answers: int, lanes: int, gauge: Gauge, memory: MemoryAt
    ) -> None:
        self._orders = orders
        self._answers = answers
        self._lanes = lanes
        self._gauge = gauge
        self._say_lock = threading.Lock()
        self._waiting: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._cancels: dict[int, threading.Event] = {}
        self._over = threading.Event()
        self._memory = Memory(memory.settings, gauge, History.open(memory.learned), self.say)
        self._bench = Bench(
            say=self.say, token=threading.Lock(), usage=gauge.read, memory=self._memory
        )
        self._leaving = False

    def run(self) -> None:
        """Work until told to stop or until the daemon is gone."""
        threads = [
            threading.Thread(target=self._lane, name=f"lane-{number}", daemon=True)
            for number in range(self._lanes)
        ]
        threads.append(threading.Thread(target=self._live, name="alive", daemon=True))
        for thread in threads:
            thread.start()
        self.say(Hello(pid=os.getpid(), lanes=self._lanes, card=self._gauge.gpu_name() or ""))
        with os.fdopen(self._orders, "rb") as lines:
            for line in lines:
                if not self._hear(line):
                    break
        self._over.set()

    def say(self, message: FromWorker) -> None:
        """Write one line, whole; if nobody listens any more, there is nothing left to do."""
        data = memoryview(encode_line(message))
        with self._say_lock:
            try:
                while data:
                    data = data[os.write(self._answers, data) :]
            except BrokenPipeError:
                os._exit(0)

    def _hear(self, line: bytes) -> bool:
        message = decode_order(line)
        if isinstance(message, Order):
            self._cancels[message.job] = threading.Event()
            self._waiting.put(message)
        elif isinstance(message, Cancel):
            cancel = self._cancels.get(message.job)
            if cancel:
                cancel.set()
        return not isinstance(message, Stop)

    def _lane(self) -> None:
        while order := self._waiting.get():
            try:
                answer = run_order(order, self._bench, self._cancels[order.job])
            except BaseException as error:  # a lane must not vanish in silence
                self.say(_lane_died(order, error))
                raise
            self._cancels.pop(order.job, None)
            self.say(answer)
            self._leave(self._memory.after_file())

    def _live(self) -> None:
        while not self._over.wait(ALIVE_EVERY_S):
            self._leave(self._memory.sample())
            self.say(Alive(usage=self._gauge.read(), memory=self._memory.status()))

    def _leave(self, reason: str) -> None:
        """Ask to be replaced, once."""
        if reason and not self._leaving:
            self._leaving = True
            self.say(Recycle(reason=reason))


def _lane_died(order: Order, error: BaseException) -> Failed:
    return Failed(
        job=order.job, attempt=order.attempt, fault=Fault.TRANSIENT,
        reason=f"the worker's lane ended: {type(error).__name__}: {error}",
    )  # fmt: skip


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill us when the daemon dies; leave at once if it is dead already."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def prefer_to_die() -> None:
    """When the host runs out of memory the kernel is to end the worker, not the daemon."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(OOM_SCORE)


def main() -> None:
    """Entry of `python -m pipeline.worker`."""
    parser = argparse.ArgumentParser(prog="pipeline.worker")
    parser.add_argument("--orders", type=int, required=True)
    parser.add_argument("--answers", type=int, required=True)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--memory", default="{}", help="[memory] as JSON")
    parser.add_argument("--learned", required=True, help="file of learned peaks")
    args = parser.parse_args()
    die_with_parent(args.parent)
    prefer_to_die()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # A cleanup is told as a note, with its facts; its own line would only repeat that.
    logging.getLogger("penstock.memory.cleanup").setLevel(logging.WARNING)
    memory = MemoryAt(
        msgspec.json.decode(args.memory, type=MemorySettings), os.fsencode(args.learned)
    )
    gauge = Gauge(gpu=args.device != "cpu")
    worker = Worker(args.orders, args.answers, args.lanes, gauge, memory)
    try:
        worker.run()
    except msgspec.DecodeError as error:
        print(f"an order could not be read: {error}", file=sys.stderr)  # noqa: T201
        os._exit(70)
    # Lanes may be deep inside a library; what they hold is of no use to anybody any more.
    os._exit(0)


if __name__ == "__main__":
    main()
