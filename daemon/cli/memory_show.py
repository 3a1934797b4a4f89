"""What `penstock memory` prints: the gauge, tiers and plan of the running worker, learned peaks."""

import argparse
import json
import os
import time
from typing import Any

import msgspec

from daemon.config import find_config, read_config
from daemon.tell.status import Status, is_fresh, read_status
from pipeline.core.errors import PenstockError
from pipeline.core.gauge import Gauge
from pipeline.core.learned import Learned, line_of, read_learned
from pipeline.core.text import human_bytes

UNKNOWN = "unknown"


def show(args: argparse.Namespace) -> int:
    """Print it for people, or as one JSON document; exit status 0."""
    settings = read_config(find_config(args.config))
    state = settings.daemon.state_dir
    told = _told(os.path.join(state, b"status.json"))
    learned = read_learned(os.path.join(state, b"memory.db"))
    reading = Gauge(gpu=settings.gpu.device != "cpu").reading(time.monotonic())
    if args.json:
        document = {
            "gauge": reading,
            "settings": settings.memory,
            "worker": told.worker.memory if told else None,
            "learned": learned,
        }
        print(json.dumps(msgspec.to_builtins(document), indent=2))
        return os.EX_OK
    print("\n".join([*_gauge(reading), *_worker(told), *_table(learned)]))
    return os.EX_OK


def _told(path: bytes) -> Status | None:
    """The status of a daemon that runs; None if none does."""
    try:
        status = read_status(path)
    except PenstockError:
        return None
    return status if status.state != "stopped" and is_fresh(status, time.time()) else None


def _size(value: int | None) -> str:
    return UNKNOWN if value is None else human_bytes(value)


def _gauge(reading: Any) -> list[str]:
    card = (
        "no card"
        if reading.total is None
        else f"{_size(reading.free)} free of {_size(reading.total)}"
    )
    stalled = "" if reading.stalled is None else f", stalled {reading.stalled:.1f} %"
    return [
        f"card    {card}",
        f"host    {_size(reading.host_free)} free of {_size(reading.host_total)}{stalled}",
    ]


def _worker(status: Status | None) -> list[str]:
    if status is None:
        return ["worker  no daemon is running on this state folder"]
    memory = status.worker.memory
    if not memory:
        return [f"worker  {status.worker.state or 'off'}; it has told nothing of memory yet"]
    card = memory["capacity"] is not None
    lines = [
        f"worker  {status.worker.state}, profile {memory['profile']}, "
        f"{memory['files']} files so far"
    ]
    if card:
        lines += [
            f"        budget {_size(memory['budget'])}, capacity {_size(memory['capacity'])}, "
            f"promised {_size(memory['reserved'])}",
            f"        {memory['line']}",
        ]
    for what in ("card", "host") if card else ("host",):
        share = memory[what]["share"]
        part = UNKNOWN if share is None else f"{share:.1%}"
        lines.append(f"tier    {what}: {memory[what]['tier']} ({part})")
    lines += [
        f"shelf   {row['name']}: {_size(row['size'])}, leased {row['leases']} times"
        for row in memory["shelf"]
    ]
    return lines


def _table(learned: list[Learned]) -> list[str]:
    if not learned:
        return ["learned nothing yet"]
    lines = []
    for entry in learned:
        words = (entry.stage, entry.model, entry.dtype, entry.device, entry.versions)
        lines.append(f"learned {', '.join(word for word in words if word)}")
        lines += [f"        {line_of(row, entry.recommended)}" for row in entry.batches]
    return lines
