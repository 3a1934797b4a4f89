"""The receipt beside a drop, from which people on the share read how far it is."""

import json
import os
import stat
from datetime import UTC, datetime

import msgspec

from daemon.publish.folders import beside, folder_of, look, read_small
from pipeline.core.errors import JobError
from pipeline.core.files import remove_if_there, write_whole
from pipeline.core.text import shown

SUFFIX = b".penstock.json"
SCHEMA = "penstock-receipt-1"
_FAMILY = "penstock-receipt-"
_LIMIT = 64 * 1024  # bytes; ours are far smaller
_MESSAGE_CHARS = 1000


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What a receipt says. `name` is the drop's, relative to its watch."""

    name: bytes
    state: str
    updated: float  # wall clock, seconds
    message: str  # in plain words
    position: int | None = None  # in the queue, from 1; None if it does not wait there
    stage: str = ""
    percent: float | None = None  # of the job, 0 to 100
    eta_seconds: float | None = None


def receipt_path(source: bytes) -> bytes:
    """Where the receipt of a drop lies: `talk.wav.penstock.json`, cut to 255 bytes."""
    return beside(source, SUFFIX)


def render(fields: Receipt) -> bytes:
    """The receipt as ASCII JSON; names and messages are made harmless."""
    when = datetime.fromtimestamp(fields.updated, UTC)
    document = {
        "schema": SCHEMA,
        "file": shown(fields.name),
        "state": fields.state,
        "position": fields.position,
        "stage": fields.stage,
        "percent": None if fields.percent is None else round(fields.percent, 1),
        "eta_seconds": None if fields.eta_seconds is None else round(fields.eta_seconds),
        "message": shown(fields.message, _MESSAGE_CHARS),
        "updated": when.isoformat(timespec="seconds"),
    }
    return json.dumps(document, indent=1).encode("ascii") + b"\n"


def put(source: bytes, data: bytes, *, root: bytes = b"") -> bool:
    """Write the receipt beside a drop. False if it was left out: it is worth no trouble.

    Left out where the folder is gone, full or read-only, and where the name belongs to a file that
    is no receipt of ours. If the watched folder is given as `root`, no link below it is followed.
    """
    try:
        with folder_of(source, root) as here:
            path = os.path.join(here, os.path.basename(receipt_path(source)))
            if look(path) is not None and not _is_receipt(path):
                return False
            write_whole(path, data, durable=False)
            return True
    except (OSError, JobError):
        return False


def drop(source: bytes, *, root: bytes = b"") -> bool:
    """Remove the receipt of a drop, True if it was there; what is not ours at its name stays."""
    try:
        with folder_of(source, root) as here:
            path = os.path.join(here, os.path.basename(receipt_path(source)))
            if not _is_receipt(path):
                return False
            remove_if_there(path)
            return True
    except OSError:
        return False


class _Mark(msgspec.Struct, frozen=True):
    """The key by which we know our own."""

    schema: str = ""


def _is_receipt(path: bytes) -> bool:
    there = look(path)
    if there is None or not stat.S_ISREG(there.st_mode):
        return False
    try:
        mark = msgspec.json.decode(read_small(path, _LIMIT), type=_Mark)
    except msgspec.DecodeError:
        return False
    return mark.schema.startswith(_FAMILY)
