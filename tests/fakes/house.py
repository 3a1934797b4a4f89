"""A whole daemon in a thread, on real folders, over the fake worker; `until` waits for a status."""

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from daemon.config import make_folders
from daemon.dispatch.worker_link import WorkerLink
from daemon.service import Service
from daemon.settings import (
    DaemonSettings,
    QueueSettings,
    Settings,
    WatchSettings,
    WorkerSettings,
)
from daemon.tell.control import Command, Reply, send
from daemon.tell.status import Status

WAIT_S = 30.0
FAKE = (sys.executable, "-m", "tests.fakes.worker")


class House:
    """A daemon over one room of folders; `until` waits for a status that fits."""

    def __init__(self, room: Path, **changes: Any) -> None:
        self.room = room
        watch = WatchSettings(
            name="drill", path=self.path("in"), recipe="noop", outbox=self.path("out"),
            archive=self.path("archive"), failed=self.path("failed"), settle_seconds=0.05,
            incomplete_seconds=0.1,
        )  # fmt: skip
        watch = msgspec.structs.replace(watch, **changes.pop("watch", {}))
        self.settings = Settings(
            daemon=DaemonSettings(
                state_dir=self.path("state"), log_dir=self.path("logs"),
                status_seconds=0.05, stop_seconds=changes.pop("stop_seconds", 0.3),
            ),
            queue=QueueSettings(
                **{"disk_low_gb": 0.0, "disk_stop_gb": 0.0, "retry_seconds": 0.05}
                | changes.pop("queue", {})
            ),
            worker=WorkerSettings(**changes.pop("worker", {})),
            watch=(watch,),
        )  # fmt: skip
        assert not changes
        self.read_again: Callable[[], Settings] | None = None

    def path(self, *names: str) -> bytes:
        return os.fsencode(self.room.joinpath(*names))

    def open(self) -> "House":
        make_folders(self.settings)
        self.statuses: queue.SimpleQueue[Status] = queue.SimpleQueue()
        self.most_open = 0
        begun = threading.Event()

        def live() -> None:  # the ledger belongs to the thread that opens it
            self.service = Service(
                self.settings, watcher_of_progress=self.statuses.put, read_again=self.read_again
            )
            self.service.desk.link = WorkerLink(
                self.settings.worker, self.service.post, command=FAKE
            )
            begun.set()
            self.service.run()

        self.thread = threading.Thread(target=live, name="service")
        self.thread.start()
        assert begun.wait(WAIT_S)
        self.until(lambda status: status.state != "starting")
        return self

    def close(self) -> None:
        self.service.stop()
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()

    def drop(self, name: str, content: str = "hello") -> Path:
        path = self.room / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def until(self, fits: Callable[[Status], bool]) -> Status:
        """The first status from now on that fits."""
        last: Status | None = None
        end = time.monotonic() + WAIT_S
        try:
            while True:
                last = self.statuses.get(timeout=max(0.0, end - time.monotonic()))
                self.most_open = max(self.most_open, last.queue.queued + last.queue.running)
                if fits(last):
                    return last
        except queue.Empty:
            raise AssertionError(f"never so; the last status was {last}") from None

    def until_ended(self, count: int) -> Status:
        return self.until(lambda status: len(status.recent) >= count)

    def ask(self, name: str, **args: Any) -> Reply:
        return send(self.settings.daemon.state_dir, Command(name=name, args=args))

    def files(self, folder: str) -> set[str]:
        top = self.room / folder
        return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}

    def events(self) -> list[str]:
        with open(self.room / "logs" / "file_monitor.jsonl") as lines:
            return [json.loads(line)["event"] for line in lines]


Open = Callable[..., House]
