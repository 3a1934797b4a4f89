"""The drill's only stage: reads the file's first bytes and writes a small note about it."""

import json
import time

from pipeline.core.errors import BadInput
from pipeline.core.files import write_whole
from pipeline.core.recipes import NoopOptions
from pipeline.core.stage import StageResult, Work
from pipeline.core.text import shown

LANE = "cpu"
SLICE_S = 0.05  # how often pretend work looks up


def run(work: Work) -> StageResult:
    """Open the drop, wait `seconds` while beating, write NAME.noop.json."""
    options = work.options
    assert isinstance(options, NoopOptions)
    with work.open_source() as source:
        head = source.read(64)
    if not head:
        raise BadInput(f"{shown(work.order.name)} is empty", "drop it again once it has content")
    begun = time.monotonic()
    while (spent := time.monotonic() - begun) < options.seconds:
        work.beat(spent / options.seconds)
        time.sleep(min(SLICE_S, options.seconds - spent))
    path = work.output(".noop.json")
    note = {"file": shown(work.order.name), "mark": work.order.mark, "bytes_read": len(head)}
    write_whole(path, json.dumps(note).encode() + b"\n", durable=False)
    return StageResult(engine="noop", outputs=(path,))
