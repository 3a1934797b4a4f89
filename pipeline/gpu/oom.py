"""Which exceptions mean that memory ran out: the whole chain, by its texts, classes and codes.

No library is imported: a class is known by its name, a CUDA error by its code.
"""

import subprocess
from collections.abc import Iterator

from pipeline.core.errors import Cancelled, NoMemory
from pipeline.core.faults import Finding, Kind, find, from_exit
from pipeline.core.reading import Reading

_CODE_CLASSES = frozenset({"AcceleratorError", "CudaError", "CUDARuntimeError", "CudaAPIError"})
_OUT_OF_MEMORY = frozenset({"OutOfMemoryError", "MemoryError"})
# Where torch asks the card how it is: an OOM there means that not even the asking worked.
_PROBES = frozenset({"mem_get_info", "_lazy_init", "device_count"})
_TEXT_LIMIT = 16_000  # characters of one exception


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it carries: causes, contexts (hidden ones too), groups, arguments."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [other for other in (one.__cause__, one.__context__) if other is not None]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        waiting += [arg for arg in one.args if isinstance(arg, BaseException)]


def find_in(error: BaseException, *, reading: Reading | None = None) -> Finding:
    """What the error asks for; `reading` is the look at the card just before it failed.

    One exception of the chain is enough: a MemoryError that a library made of a card's error is
    the card's, and a broken context anywhere outweighs a lack of memory.
    """
    if isinstance(error, (Cancelled, KeyboardInterrupt, SystemExit, GeneratorExit)):
        return Finding(kind=Kind.NOT_MEMORY, reason="asked to stop")
    errors = list(chain(error))
    free, total = (reading.free, reading.total) if reading else (None, None)
    found = find("\n".join(_text(one) for one in errors), free=free, total=total)
    for one in errors:
        if isinstance(one, subprocess.CalledProcessError):
            found = _worse(found, from_exit(one.returncode, _tail(one), None))
    if found.kind is Kind.NOT_MEMORY and any(isinstance(one, NoMemory) for one in errors):
        return Finding(kind=Kind.RECOVER, reason=str(error), hint="a smaller batch")
    return found


def _worse(one: Finding, other: Finding) -> Finding:
    order = (Kind.REPLACE_WORKER, Kind.DEVICE_LOST, Kind.RECOVER, Kind.NOT_MEMORY)
    return min(one, other, key=lambda finding: order.index(finding.kind))


def _text(error: BaseException) -> str:
    """The exception as one text for the recogniser: its class, message, code, and probe if any."""
    known = [cls.__name__ for cls in type(error).__mro__ if cls.__name__ in _OUT_OF_MEMORY]
    module = type(error).__module__
    name = f"{module}.{type(error).__name__}"
    lines = [f"{name}:", _message(error)[:_TEXT_LIMIT]]
    if known and known[0] != type(error).__name__:  # a class of its own below a known one
        lines.append(known[0])
    code = code_of(error)
    if code is not None:
        lines.append(f"CUDA error {code}")
    probe = _probe_of(error)
    if probe:
        lines[1] += f" (in {probe})"
    return "\n".join(lines)


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        # Without the file's name, which can say anything.
        return f"[Errno {error.errno}] {error.strerror}"
    if isinstance(error, subprocess.CalledProcessError):
        return f"exit status {error.returncode}"  # not the command line: a name stands in it
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide the failure itself
        return ""


def code_of(error: BaseException) -> int | None:
    """The CUDA error code that an exception carries (2 out of memory, 700 illegal address, ...)."""
    if isinstance(error, OSError):
        return None
    known = any(cls.__name__ in _CODE_CLASSES for cls in type(error).__mro__)
    for name in ("error_code", "status", "code") if known else ("error_code",):
        code = getattr(error, name, None)
        if isinstance(code, int) and not isinstance(code, bool):
            return code
    return None


def _probe_of(error: BaseException) -> str:
    trace, names = error.__traceback__, []
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    return next((name for name in names[-3:] if name in _PROBES), "")


def _tail(error: subprocess.CalledProcessError) -> list[str]:
    said = error.stderr or error.output or b""
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    return text.splitlines()[-100:]
