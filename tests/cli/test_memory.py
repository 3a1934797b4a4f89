"""`penstock memory`: what it shows without a daemon, and with what a worker told."""

import json
import os
import time
from pathlib import Path

import pytest

from daemon.cli.main import main
from daemon.tell.status import QueueStatus, Status, WorkerStatus, write_status
from pipeline.gpu.history import History
from pipeline.gpu.values import Features, Key, Observation

CONFIG = """
[gpu]
device = "cpu"
[[watch]]
name = "a"
path = "in"
recipe = "noop"
outbox = "out"
archive = "archive"
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    (tmp_path / "state").mkdir()
    return str(path)


def test_without_a_daemon_the_machine_is_shown(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Card and host are read by the command itself; what is not known yet is said."""
    assert main(["memory", "--config", config]) == 0
    told = capsys.readouterr().out
    assert "no daemon is running" in told
    assert "learned nothing yet" in told
    assert "host" in told


def test_what_was_learned_is_a_table(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each batch size has its success rate, its memory and the recommendation."""
    history = History.open(os.fsencode(tmp_path / "state" / "memory.db"))
    run = Observation(batch=2, features=Features(seconds=30.0), peak=9_200_000_000, seconds=1.0)
    history.record(Key(stage="transcribe", model="small"), run)
    history.close()
    assert main(["memory", "--config", config]) == 0
    assert "batch 2: 100.0 % success, avg 9.2 GB; recommended 2" in capsys.readouterr().out


def test_json_holds_gauge_settings_worker_and_table(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--json prints one document; a running worker's figures are in it."""
    memory = {"profile": "cpu_only", "files": 3}
    status = Status(
        version="0", pid=1, started_at=0.0, updated_at=time.time(), interval_seconds=60.0, seq=1,
        state="ready", queue=QueueStatus(size=1), worker=WorkerStatus(memory=memory),
    )  # fmt: skip
    assert write_status(os.fsencode(tmp_path / "state" / "status.json"), status) == ""
    assert main(["memory", "--json", "--config", config]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["worker"] == memory
    assert document["settings"]["cleanup_every"] == 2
    assert document["learned"] == []
    assert document["gauge"]["host_total"]
