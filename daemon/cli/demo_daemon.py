"""The demo's daemon: the real one as a child process, started, read and stopped."""

import os
import signal
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

from daemon.tell.status import Status, read_status
from pipeline.core.errors import PenstockError
from pipeline.core.text import shown

START_S = 30.0
STOP_S = 20.0
LOOK_S = 0.1
LAST_LINES = 15
HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class DemoFailed(Exception):
    """The demo can not go on; `last_words` are the last lines of the daemon's log."""

    def __init__(self, reason: str, last_words: list[str]) -> None:
        super().__init__(reason)
        self.last_words = last_words


class DemoDaemon:
    """`penstock run` on the demo's config; leaving the `with` stops it."""

    def __init__(self, config: str, folder: bytes) -> None:
        self.log = os.path.join(folder, b"daemon.log")
        self._config = config
        self._folder = folder
        self._status = os.path.join(folder, b"state", b"status.json")
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "daemon.cli.main", "run", "--config", self._config]
        paths = [HOME, os.environ.get("PYTHONPATH", "")]
        with open(self.log, "wb") as log:
            # A session of its own: Ctrl-C reaches the demo only, which then stops it in order.
            self._child = subprocess.Popen(
                command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            )  # fmt: skip
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        child = self._child
        if child is None or child.poll() is not None:
            return
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._child
        return self._child.pid

    def status(self) -> Status | None:
        """What it says now; None while it has not said anything."""
        if not os.path.exists(self._status):
            return None
        try:
            return read_status(self._status)
        except PenstockError as error:
            raise self.failure(str(error)) from error

    def wait_until_ready(self) -> None:
        """Wait until it watches its folders; DemoFailed if it does not come to that."""
        end = time.monotonic() + START_S
        while (status := self.status()) is None or status.state == "starting":
            self.check()
            if time.monotonic() > end:
                raise self.failure(f"the daemon was not ready within {START_S:.0f} s")
            time.sleep(LOOK_S)

    def check(self) -> None:
        """DemoFailed if it has ended."""
        assert self._child
        code = self._child.poll()
        if code is not None:
            raise self.failure(f"the daemon ended (exit status {code})")

    def failure(self, reason: str) -> DemoFailed:
        """The error to raise, with the end of the log."""
        with open(self.log, "rb") as log:
            lines = log.read().splitlines()
        return DemoFailed(reason, [shown(line) for line in lines[-LAST_LINES:]])
