"""Tests of pipeline/gpu/oom.py: no memory is found anywhere in a chain of real exceptions."""

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy
import pytest
import torch

from pipeline.core.errors import BadInput, Cancelled, NoMemory
from pipeline.core.faults import Finding, Kind
from pipeline.core.reading import Reading
from pipeline.gpu.oom import chain, code_of, find_in
from tests.gpu import corpus

GIB = 1 << 30


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def accelerator(message: str, code: int | None = None) -> Exception:
    error = torch.AcceleratorError(message)
    if code is not None:
        setattr(error, "error_code", code)  # noqa: B010 - the CPU build does not set it
    return error


def raised(call: Callable[[], object]) -> BaseException:
    """What the call raises."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - the test looks at it
        return error
    raise AssertionError("nothing was raised")


def found(call: Callable[[], object], reading: Reading | None = None) -> Finding:
    return find_in(raised(call), reading=reading)


def fail(error: BaseException) -> object:
    raise error


# The ways in which an exception reaches the one who has to understand it.


def as_it_is(error: Exception) -> object:
    raise error


def as_a_cause(error: Exception) -> object:
    try:
        as_it_is(error)
    except Exception as inner:
        raise RuntimeError("stage transcribe failed") from inner
    return None


def as_a_context(error: Exception) -> object:
    try:
        as_it_is(error)
    finally:
        raise KeyError("batch")  # a library that stumbled while it tidied up


def hidden(error: Exception) -> object:
    try:
        as_it_is(error)
    except Exception:  # noqa: BLE001 - any
        raise ValueError("try a smaller value") from None
    return None


def three_deep(error: Exception) -> object:
    try:
        as_a_cause(error)
    except RuntimeError as middle:
        raise OSError("could not finish") from middle
    return None


def in_a_group(error: Exception) -> object:
    raise ExceptionGroup("2 parts failed", [ValueError("part 1"), ExceptionGroup("2", [error])])


def in_a_future(error: Exception) -> object:
    with ThreadPoolExecutor(1) as pool:
        future: Future[object] = pool.submit(fail, error)
        return future.result()


def as_an_argument(error: Exception) -> object:
    raise RuntimeError("worker thread failed", error)


WAYS = (
    as_it_is, as_a_cause, as_a_context, hidden, three_deep, in_a_group, in_a_future,
    as_an_argument,
)  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_text_through_every_way(way: Callable[[Exception], object]) -> None:
    """Each text of the corpus is found on each way, and no look-alike becomes an alarm on it."""
    for texts, kind in (
        (corpus.CARD_FULL + corpus.HOST_FULL, Kind.RECOVER),
        (corpus.REPLACE, Kind.REPLACE_WORKER),
        (corpus.LOST, Kind.DEVICE_LOST),
        (corpus.LOOK_ALIKES, Kind.NOT_MEMORY),
    ):
        wrong = [text for text in texts if found(lambda: way(RuntimeError(text))).kind is not kind]  # noqa: B023
        assert not wrong


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (out_of_memory, Kind.RECOVER),
        (lambda: torch.OutOfMemoryError(""), Kind.RECOVER),
        (lambda: accelerator("CUDA error: out of memory", 2), Kind.RECOVER),
        (lambda: accelerator("words of a later version", 2), Kind.RECOVER),
        (lambda: accelerator("words of a later version", 700), Kind.REPLACE_WORKER),
        (lambda: accelerator("words of a later version", 719), Kind.REPLACE_WORKER),
        (lambda: accelerator("words of a later version", 46), Kind.DEVICE_LOST),
        (lambda: accelerator("CUDA error: invalid argument", 1), Kind.NOT_MEMORY),
        (MemoryError, Kind.RECOVER),
        (lambda: OSError(12, "Cannot allocate memory"), Kind.RECOVER),
        (lambda: OSError(28, "No space left on device"), Kind.NOT_MEMORY),
        (lambda: ValueError("no room left"), Kind.NOT_MEMORY),
    ],
)  # fmt: skip
def test_classes_and_codes(
    way: Callable[[Exception], object], make: Callable[[], Exception], kind: Kind
) -> None:
    """Real exception classes are known by class, code or errno, whatever their message says."""
    assert found(lambda: way(make())).kind is kind


def test_real_errors_of_the_host() -> None:
    """What Python, numpy and torch really raise when the host can not give so much is found."""
    calls: list[Callable[[], object]] = [
        lambda: bytearray(1 << 60),
        lambda: numpy.empty(1 << 46),
        lambda: torch.empty(1 << 47),
    ]
    for call in calls:
        seen = found(call)
        assert seen.kind is Kind.RECOVER
        assert seen.host


def test_a_shape_that_overflows_is_a_mistake() -> None:
    """A size that no machine has is no lack of memory: trying again can not help."""
    for call in (
        lambda: numpy.empty(1 << 62),
        lambda: torch.empty(1 << 62),
        lambda: fail(
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than 1EB memory.")
        ),
    ):
        assert found(call).kind is Kind.NOT_MEMORY


def test_a_memory_error_of_the_card() -> None:
    """A MemoryError that a library made of the card's own error is the card's."""

    def infer() -> None:
        try:
            raise out_of_memory()
        except RuntimeError as error:
            raise MemoryError(
                "batch_size ( 32) is probably too large. "
                "Try with a smaller value until memory error disappears."
            ) from error

    seen = found(infer)
    assert seen.kind is Kind.RECOVER
    assert not seen.host


def test_a_class_below_memory_error() -> None:
    """A library's own class below MemoryError is known by what it is derived from."""

    class Full(MemoryError):
        pass

    assert found(lambda: fail(Full("the pool is exhausted"))).kind is Kind.RECOVER


def test_a_broken_context_outweighs() -> None:
    """A lack of memory during the handling of a sticky error still asks for a new worker."""

    def stage() -> None:
        try:
            raise accelerator("CUDA error: an illegal memory access was encountered", 700)
        except RuntimeError:
            raise out_of_memory()  # noqa: B904 - as it happens

    assert found(stage).kind is Kind.REPLACE_WORKER


def test_asking_the_card_failed() -> None:
    """A card that is too full to be asked needs a fresh worker, not a smaller batch."""

    def mem_get_info() -> None:
        raise accelerator("CUDA error: out of memory", 2)

    assert found(mem_get_info).kind is Kind.REPLACE_WORKER


def test_the_measurement_is_used() -> None:
    """The look at the card before the failure decides where words can not."""
    text = "CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasGemmEx`"
    full = Reading(free=100 << 20, total=12 * GIB)
    free = Reading(free=9 * GIB, total=12 * GIB)
    assert found(lambda: fail(RuntimeError(text)), full).kind is Kind.RECOVER
    assert found(lambda: fail(RuntimeError(text)), free).kind is Kind.REPLACE_WORKER
    assert found(lambda: fail(RuntimeError(text)), Reading()).kind is Kind.REPLACE_WORKER


def test_a_name_in_an_error_is_not_read() -> None:
    """A file or command line called like an error is none, however the error shows it."""
    name = "CUDA error: an illegal memory access was encountered"
    assert found(lambda: os.open(name, os.O_RDONLY)).kind is Kind.NOT_MEMORY
    command = subprocess.CalledProcessError(1, ["ffmpeg", "-i", name], stderr=b"Invalid data")
    assert find_in(command).kind is Kind.NOT_MEMORY


@pytest.mark.parametrize(
    ("status", "stderr", "kind"),
    [
        (1, b"Error while filtering: Cannot allocate memory\n", Kind.RECOVER),
        (1, "\xff [h264_nvenc] CreateInputBuffer failed: out of memory (10)", Kind.RECOVER),
        (1, b"[h264_nvenc] OpenEncodeSessionEx failed: out of memory (10)", Kind.NOT_MEMORY),
        (-9, None, Kind.REPLACE_WORKER),
        (-6, b"terminate called after throwing an instance of 'x'", Kind.REPLACE_WORKER),
        (1, None, Kind.NOT_MEMORY),
    ],
)  # fmt: skip
def test_a_failed_program(status: int, stderr: bytes | str | None, kind: Kind) -> None:
    """A program's exit status and stderr are read, not its command line."""
    error = subprocess.CalledProcessError(status, ["ffmpeg", "out of memory"], stderr=stderr)
    assert find_in(error).kind is kind


def test_our_own_errors() -> None:
    """NoMemory asks for a recovery, a bad file does not, and a cancel is never a failure."""
    assert find_in(NoMemory("the card is full", "a smaller batch")).kind is Kind.RECOVER
    assert find_in(BadInput("this is no video")).kind is Kind.NOT_MEMORY

    def cancelled() -> None:
        try:
            raise out_of_memory()
        except RuntimeError as error:
            raise Cancelled("asked for") from error

    assert found(cancelled).kind is Kind.NOT_MEMORY
    assert find_in(KeyboardInterrupt()).kind is Kind.NOT_MEMORY


def test_a_chain_that_bites_its_tail() -> None:
    """A chain with a cycle, and one of thousands, is walked once."""
    first, second = ValueError("1"), ValueError("2")
    first.__context__, second.__context__ = second, first
    assert list(chain(first)) == [first, second]
    link: BaseException = MemoryError()
    for number in range(5000):
        error = RuntimeError(str(number))
        error.__cause__ = link
        link = error
    assert find_in(link).kind is Kind.RECOVER


def test_a_broken_message_hides_nothing() -> None:
    """An exception whose text can not be made is still judged, by its class."""

    class Broken(MemoryError):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert find_in(Broken()).kind is Kind.RECOVER


def test_codes() -> None:
    """The CUDA code is read from the classes that carry one, and from no others."""
    assert code_of(accelerator("x", 700)) == 700
    assert code_of(accelerator("x")) is None
    assert code_of(OSError(2, "x")) is None
    assert code_of(SystemExit(2)) is None


def test_torch_is_not_needed() -> None:
    """The recogniser of exceptions loads no library that it recognises."""
    program = (
        "import sys, pipeline.gpu.oom, pipeline.gpu.unwind\n"
        "print([name for name in ('torch', 'numpy', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_formatted_traceback_is_read_too() -> None:
    """What a pool hands over as the text of a remote traceback is understood."""
    text = "".join(traceback.format_exception(raised(lambda: as_a_cause(out_of_memory()))))
    assert find_in(RuntimeError(f'\n"""\n{text}"""')).kind is Kind.RECOVER
