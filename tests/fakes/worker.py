"""A worker with the real one's manners and none of its work; what it does, the file's name says.

slow: finishes when cancelled only · small: like slow until the file has more than ten bytes ·
mute: never answers, not even that it lives · dies: SIGKILL · aborts: SIGABRT · exits: status 3 ·
garbles: no JSON · refuses: BAD_INPUT · passing: TRANSIENT at the first attempt · sticky: STICKY ·
memory: NO_MEMORY until it may be frugal · starved: NO_MEMORY always · lost: DEVICE unless on the
CPU · else: finishes. With `once` in the name too, all that only at the first attempt.
"""

import argparse
import os
import signal
import sys
import threading
import time

from pipeline.core.contract import (
    Alive,
    Beat,
    Cancel,
    Failed,
    Fault,
    Finished,
    FromWorker,
    Hello,
    Order,
    Output,
    Stop,
    Usage,
    decode_order,
    encode_line,
)


class FakeWorker:
    """Answers each order at once, as its name asks."""

    def __init__(self, answers: int) -> None:
        self.answers = answers
        self.mute = False

    def say(self, message: FromWorker) -> None:
        if not self.mute:
            os.write(self.answers, encode_line(message))

    def live(self) -> None:
        while True:
            self.say(Alive(usage=Usage(rss=1)))
            time.sleep(0.2)

    def hear(self, order: Order) -> None:
        name = order.name
        if b"once" in name and order.attempt > 1:
            name = b""
        self.say(Beat(job=order.job, stage="fake", fraction=0.5, overall=0.5))
        small = b"small" in name and int(order.mark.partition("-")[0]) <= 10
        if b"slow" in name or small:
            return
        if b"mute" in name:
            self.mute = True
            return
        if b"dies" in name:
            sys.stderr.write("last words\n")
            os.kill(os.getpid(), signal.SIGKILL)
        if b"aborts" in name:
            os.abort()
        if b"exits" in name:
            os._exit(3)
        if b"garbles" in name:
            os.write(self.answers, b"this is no answer\n")
            return
        fault = fault_of(name, order)
        if fault is not None:
            self.fail(order.job, order.attempt, fault)
            return
        os.makedirs(order.staging, exist_ok=True)
        with open(os.path.join(order.staging, order.stem + b".txt"), "wb") as out:
            out.write(b"done")
        outputs = [Output(name=order.stem + b".txt", size=4)]
        self.say(Finished(job=order.job, attempt=order.attempt, outputs=outputs, reports=[]))

    def fail(self, job: int, attempt: int, fault: Fault) -> None:
        self.say(Failed(job=job, attempt=attempt, fault=fault, reason=f"as told: {fault}"))


def fault_of(name: bytes, order: Order) -> Fault | None:
    """What the name asks for, if it is a fault that can be told."""
    passing = Fault.TRANSIENT if order.attempt == 1 else None
    faults = {
        b"refuses": Fault.BAD_INPUT,
        b"passing": passing,
        b"sticky": Fault.STICKY,
        b"memory": None if order.frugal else Fault.NO_MEMORY,
        b"starved": Fault.NO_MEMORY,
        b"lost": None if order.device == "cpu" else Fault.DEVICE,
    }
    return next((fault for word, fault in faults.items() if word in name), None)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("orders", "answers", "lanes", "parent"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--device")
    args, _rest = parser.parse_known_args()
    worker = FakeWorker(args.answers)
    attempts: dict[int, int] = {}
    card = "" if args.device == "cpu" else "Fake Card"
    worker.say(Hello(pid=os.getpid(), lanes=args.lanes, card=card))
    threading.Thread(target=worker.live, daemon=True).start()
    with os.fdopen(args.orders, "rb") as lines:
        for line in lines:
            message = decode_order(line)
            if isinstance(message, Order):
                attempts[message.job] = message.attempt
                worker.hear(message)
            elif isinstance(message, Cancel):
                worker.fail(message.job, attempts[message.job], Fault.CANCELLED)
            elif isinstance(message, Stop):
                break
    os._exit(0)


if __name__ == "__main__":
    main()
