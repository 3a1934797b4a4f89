"""A folder with a config, and the `penstock` command run in it as a real process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
WAIT_S = 30.0
CONFIG = """
[daemon]
status_seconds = 0.1
stop_seconds = 0.3
[queue]
disk_low_gb = 0
disk_stop_gb = 0
[[watch]]
name = "drill"
path = "in/drill"
recipe = "noop"
outbox = "out/drill"
archive = "archive/drill"
failed = "failed/drill"
settle_seconds = 0.1
incomplete_seconds = 0.1
[[watch]]
name = "slow"
path = "in/slow"
recipe = "noop"
outbox = "out/slow"
after = "keep"
failed = "failed/slow"
settle_seconds = 0.1
options = { seconds = 600.0 }
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def command(*words: str | bytes) -> list[str | bytes]:
    return [sys.executable, "-m", "daemon.cli.main", *words]


class House:
    """One room of folders; `penstock` runs in it."""

    def __init__(self, room: Path) -> None:
        self.room = room
        self.config = room / "config.toml"
        self.daemon: subprocess.Popen[bytes] | None = None

    def penstock(self, *words: str | bytes) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*words), cwd=self.room, env=environment(), capture_output=True,
            stdin=subprocess.DEVNULL, text=True, errors="surrogateescape", timeout=60, check=False,
        )  # fmt: skip

    def start(self, *words: str | bytes) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command(*words), cwd=self.room, env=environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def open(self, config: str = CONFIG) -> None:
        self.config.write_text(config)
        self.daemon = subprocess.Popen(
            command("run"), cwd=self.room, env=environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.until(lambda status: status["state"] == "ready")

    def close(self) -> None:
        if self.daemon is not None:
            self.daemon.send_signal(signal.SIGTERM)
            self.daemon.wait(WAIT_S)
            self.daemon = None

    def until(self, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first status that fits."""
        end = time.monotonic() + WAIT_S
        path = self.room / "state" / "status.json"
        status: dict[str, Any] = {}
        while time.monotonic() < end:
            if path.exists():
                status = json.loads(path.read_text())
                if fits(status):
                    return status
            time.sleep(0.02)
        raise AssertionError(f"never so; the last status was {status}")

    def files(self, folder: str) -> set[str]:
        top = self.room / folder
        return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}


def names(jobs: Sequence[dict[str, Any]]) -> list[str]:
    return [job["file"] for job in jobs]
