"""FAILED.txt: the note beside a failed original that says what happened and what to do."""

import itertools
import os
from datetime import datetime

from daemon.publish.folders import beside, folder_of, look, read_small, trouble
from daemon.values import Job
from pipeline.core.contract import Fault
from pipeline.core.files import numbered, remove_if_there, write_whole
from pipeline.core.text import human_bytes, shown

SUFFIX = b".FAILED.txt"
_MARK = "Penstock could not process this file."
_TEXT_CHARS = 2000

_WHAT_TO_DO: dict[Fault | None, str] = {
    Fault.BAD_INPUT: (
        "The file itself is the reason, so the same file would fail again. Open it in a player\n"
        "or editor; if that works, export it anew and drop the new file."
    ),
    Fault.NO_MEMORY: (
        "The file needs more memory than the machine can give. A shorter or smaller file may\n"
        "pass; else ask the people who run Penstock."
    ),
    Fault.NO_SPACE: "A disk is full. When there is room again, try this file once more.",
    Fault.MISSING: (
        "A program or model is not installed. The people who run Penstock can bring it; then\n"
        "try this file once more."
    ),
    Fault.LOST: (
        "The program that works on the files broke down each time it came to this one. The file\n"
        "may be damaged: open it in a player; if that works, export it anew and drop the new file."
    ),
    Fault.TIMEOUT: (
        "It took longer than is allowed for one file. Cut it into shorter files, or ask the\n"
        "people who run Penstock to raise the limit."
    ),
}
_ELSE = (
    "The reason may have passed: try this file once more. If it fails again, ask the people\n"
    "who run Penstock."
)


def failed_note(job: Job, when: float) -> str:
    """The note's text. `when` is wall clock, in seconds; it is shown in the local time zone."""
    time = datetime.fromtimestamp(when).astimezone().strftime("%Y-%m-%d %H:%M %Z")
    happened = shown(job.reason or "no reason was given", _TEXT_CHARS)
    advice = f"{shown(job.hint.rstrip('.'), _TEXT_CHARS)}.\n" if job.hint else ""
    return (
        f"{_MARK}\n\n"
        f"File:   {shown(job.name)}\n"
        f"When:   {time}\n\n"
        f"What happened\n-------------\n{happened}\n\n"
        f"What to do\n----------\n{advice}{_WHAT_TO_DO.get(job.fault, _ELSE)}\n\n"
        f"How to try again\n----------------\n"
        f"Move the file back into the folder where it was dropped (watch {shown(job.watch)}).\n"
        f"Or, on the machine that runs Penstock: penstock jobs retry {job.id}\n"
        f"The file itself was not changed. This note can be deleted.\n\n"
        f"{_technical_line(job)}\n"
    )


def _technical_line(job: Job) -> str:
    size = human_bytes(job.sighting.size)
    fault = job.fault.value if job.fault else "unknown"
    return (
        f"(job {job.label}, recipe {shown(job.recipe)}, {fault}, attempts {job.attempt}, "
        f"worker lost {job.kills}, {size})"
    )


def note_path(place_of_original: bytes) -> bytes:
    """Where the note of a failed original lies: `talk.wav.FAILED.txt`, cut to 255 bytes."""
    return beside(place_of_original, SUFFIX)


def put_note(place_of_original: bytes, text: str, *, root: bytes = b"") -> bytes:
    """Write the note, durable; returns its path.

    Replaces an older note of ours; where a stranger's file has the name, the note is numbered. If
    the failed folder is given as `root`, no link below it is followed. Raises NoSpace or Transient.
    """
    folder, original = os.path.split(place_of_original)
    try:
        with folder_of(place_of_original, root) as here:
            choices = (numbered(original, n, folder=False) for n in itertools.count(1))
            names = (note_path(choice) for choice in choices)
            name = next(name for name in names if _is_free(os.path.join(here, name)))
            write_whole(os.path.join(here, name), text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        what = f"the note beside {shown(place_of_original)} can not be written"
        raise trouble(error, what) from error
    return os.path.join(folder, name)


def drop_note(place_of_original: bytes, *, root: bytes = b"") -> bool:
    """Remove the note of an original; True if it was there and is one of ours."""
    path = note_path(place_of_original)
    try:
        with folder_of(path, root) as here:
            note = os.path.join(here, os.path.basename(path))
            if not _is_note(note):
                return False
            remove_if_there(note)
            return True
    except OSError:
        return False


def _is_free(path: bytes) -> bool:
    return look(path) is None or _is_note(path)


def _is_note(path: bytes) -> bool:
    return read_small(path, len(_MARK)) == _MARK.encode()
