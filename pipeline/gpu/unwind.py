"""Leaving a failure behind: a plain copy of the error, and nothing that keeps its tensors alive.

An exception's traceback holds frames and frames hold tensors, so cleaning up inside `except`
frees nothing. Copy there, leave, then release; only after that is memory worth counting.
"""

import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import NoneType
from typing import TypeVar

from pipeline.core.contract import Fault
from pipeline.core.errors import JobError
from pipeline.core.faults import Finding
from pipeline.core.reading import Reading
from pipeline.gpu.oom import chain, code_of, find_in

TEXT_LIMIT = 8_000  # characters of the formatted traceback that are kept: its end
MESSAGE_LIMIT = 2_000  # characters of the message
_PLAIN = (str, bytes, int, float, NoneType)
_HOLDERS = ("obj", "value")  # what AttributeError and StopIteration are about
_LAST = ("last_exc", "last_value", "last_traceback", "last_type")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Caught:
    """A failure as plain text and figures; it keeps nothing of the failed call alive."""

    type: str  # with its module
    message: str  # at most MESSAGE_LIMIT characters
    text: str  # the formatted traceback with its causes, at most TEXT_LIMIT characters
    finding: Finding
    code: int | None = None  # of the CUDA error, if there was one
    fault: Fault | None = None  # what a JobError said that follows
    hint: str = ""  # of a JobError


def copy_of(error: BaseException, *, reading: Reading | None = None) -> Caught:
    """What is worth knowing of an error; made inside the `except`, kept after it."""
    job = error if isinstance(error, JobError) else None
    return Caught(
        type=f"{type(error).__module__}.{type(error).__qualname__}",
        message=job.reason if job else _message(error),
        text=_formatted(error),
        finding=find_in(error, reading=reading),
        code=next((code for one in chain(error) if (code := code_of(one)) is not None), None),
        fault=job.fault if job else None,
        hint=job.hint if job else "",
    )


def release(error: BaseException) -> None:
    """Make an error that was copied harmless: no frame, tensor or further error hangs on it.

    For after the `except`, on the whole chain: the locals of every finished frame are cleared,
    links between errors cut, all but plain arguments dropped. An error that is still being
    handled further out stays as it is. Cycles among the tensors' owners are left to the garbage
    collector.
    """
    handled = sys.exception()
    above = set() if handled is None or handled is error else {id(one) for one in chain(handled)}
    errors = [one for one in chain(error) if id(one) not in above]
    traces = [one.__traceback__ for one in errors]
    traces.append(getattr(sys, "last_traceback", None))
    for one in errors:
        _cut(one)
    for trace in traces:
        if trace is not None:  # a logged record may hold it still, so its frames must be emptied
            traceback.clear_frames(trace)
    for name in _LAST:
        if hasattr(sys, name):
            delattr(sys, name)


def run_and_release(
    call: Callable[[], Result], *, gauge: Callable[[], Reading | None] | None = None
) -> Result | Caught:
    """The call's result, or its failure as a copy, with nothing of the failed call left alive.

    `gauge` looks at the card while the failed call still holds what it held; it must not raise.
    Being told to stop (KeyboardInterrupt and the like) passes through.
    """
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - nothing is hidden: it is handed back as a value
        failed: BaseException = error
        caught = copy_of(error, reading=gauge() if gauge else None)
    release(failed)
    return caught


def _cut(error: BaseException) -> None:
    """Take from an error all that it refers to, but words and numbers."""
    error.__traceback__ = None
    error.__cause__ = None
    error.__context__ = None
    if not all(isinstance(arg, _PLAIN) for arg in error.args):
        error.args = tuple(arg if isinstance(arg, _PLAIN) else None for arg in error.args)
    for name in _HOLDERS:
        if not isinstance(getattr(error, name, None), _PLAIN):
            with suppress(AttributeError, TypeError):  # it is read-only: a property of plain parts
                setattr(error, name, None)
    own = getattr(error, "__dict__", {})
    for name in [name for name, value in own.items() if not isinstance(value, _PLAIN)]:
        own[name] = None


def _message(error: BaseException) -> str:
    # A TracebackException says «<exception str() failed>» where a plain str() would raise.
    said = traceback.TracebackException(type(error), error, None, compact=True)
    return str(said)[:MESSAGE_LIMIT]


def _formatted(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))[-TEXT_LIMIT:]
    except MemoryError:  # the host is full; the copy must be made all the same
        return ""
