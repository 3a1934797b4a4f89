"""Tests of pipeline/gpu/unwind.py: after a failure no tensor of the failed call is alive."""

import logging
import sys
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import FrozenInstanceError

import pytest
import torch

from pipeline.core.contract import Fault
from pipeline.core.errors import NoMemory
from pipeline.core.faults import Kind
from pipeline.core.reading import Reading
from pipeline.gpu.unwind import MESSAGE_LIMIT, TEXT_LIMIT, Caught, copy_of, release, run_and_release

OOM = "CUDA out of memory. Tried to allocate 2.00 GiB."


def as_it_is(error: Exception) -> None:
    raise error


class Stage:
    """Failing calls that hold 64 MiB each, and what somebody else keeps of their errors."""

    def __init__(self) -> None:
        self.tensors: list[weakref.ref[torch.Tensor]] = []
        self.kept: list[object] = []

    def tensor(self) -> torch.Tensor:
        made = torch.empty(16 << 20)  # 64 MiB of float32
        self.tensors.append(weakref.ref(made))
        return made

    @property
    def alive(self) -> int:
        return sum(ref() is not None for ref in self.tensors)

    def fail(self) -> None:
        batch = self.tensor()
        error = torch.OutOfMemoryError(OOM)
        self.kept.append(error)
        batch += 1
        raise error

    def plain(self) -> None:
        features = self.tensor()
        self.fail()
        features += 1

    def chained(self) -> None:
        window = self.tensor()
        try:
            self.fail()
        except RuntimeError as inner:
            error = RuntimeError("stage failed")
            self.kept.append(error)
            raise error from inner
        window += 1

    def in_context_only(self) -> None:
        window = self.tensor()
        try:
            self.fail()
        except RuntimeError:
            error = RuntimeError("stage failed")
            self.kept.append(error)
            raise error from None
        window += 1

    def future(self) -> None:
        pool = ThreadPoolExecutor(1)
        future: Future[None] = pool.submit(self.fail)
        pool.shutdown(wait=True)
        self.kept.append(future)
        future.result()

    def generator(self) -> None:
        def batches() -> Iterator[int]:
            held = self.tensor()
            yield 1
            self.fail()
            yield int(held[0])

        made = batches()
        self.kept.append(made)
        for _batch in made:
            pass

    def consumer_of_a_generator(self) -> None:
        def batches() -> Iterator[torch.Tensor]:
            while True:
                yield self.tensor()

        for held in batches():
            self.fail()
            held += 1

    def logged(self) -> None:
        records: list[logging.LogRecord] = []

        class Keeper(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                records.append(record)

        log = logging.Logger("stage")
        log.addHandler(Keeper())
        self.kept.append(records)
        try:
            self.fail()
        except RuntimeError:
            log.exception("stage failed")
            raise

    def group(self) -> None:
        failed: list[Exception] = []
        for _part in range(2):
            try:
                self.fail()
            except RuntimeError as error:
                failed.append(error)
        group = ExceptionGroup("2 parts failed", failed)
        failed = []
        self.kept.append(group)
        raise group

    def in_arguments(self) -> None:
        error = RuntimeError("bad batch", self.tensor())
        self.kept.append(error)
        raise error

    def in_an_attribute(self) -> None:
        error = RuntimeError("bad batch")
        error.batch = self.tensor()  # type: ignore[attr-defined]
        self.kept.append(error)
        raise error

    def in_the_object_of_an_attribute_error(self) -> None:
        held = self.tensor()
        try:
            held.no_such_name  # type: ignore[attr-defined]  # noqa: B018
        except AttributeError as error:
            self.kept.append(error)
            raise

    def remembered_by_the_interpreter(self) -> None:
        try:
            self.fail()
        except RuntimeError as error:
            sys.last_value = error
            sys.last_traceback = error.__traceback__
            sys.last_type = type(error)
        raise RuntimeError("the next one, without any link to it")


SHAPES = (
    Stage.plain, Stage.chained, Stage.in_context_only, Stage.future, Stage.generator,
    Stage.consumer_of_a_generator, Stage.logged, Stage.group, Stage.in_arguments,
    Stage.in_an_attribute, Stage.in_the_object_of_an_attribute_error,
    Stage.remembered_by_the_interpreter,
)  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_alive_afterwards(shape: Callable[[Stage], None]) -> None:
    """No tensor of a failed call is alive when it is time to clean up, whoever keeps its error."""
    stage = Stage()
    caught = run_and_release(lambda: shape(stage))
    assert isinstance(caught, Caught)
    assert stage.tensors
    assert stage.alive == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_without_release_they_stay(shape: Callable[[Stage], None]) -> None:
    """Each shape really keeps tensors alive after its `except`, until it is released."""
    stage = Stage()
    failed: Exception | None = None
    try:
        shape(stage)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        failed = error
    assert stage.alive > 0
    assert failed is not None
    release(failed)
    assert stage.alive == 0


def test_a_released_error_hangs_on_nothing() -> None:
    """No link to a frame or another error is left: a frame that still runs can not be cleared."""

    class Inner(Exception):
        pass

    inner = Inner("no memory")
    alive = weakref.ref(inner)
    outer = RuntimeError("stage failed")
    outer.__cause__, outer.__context__ = inner, inner
    del inner
    failed: list[RuntimeError] = []
    try:
        as_it_is(outer)
    except RuntimeError as error:
        failed.append(error)
    release(outer)
    left: list[object] = [outer.__traceback__, outer.__cause__, outer.__context__, alive()]
    assert left == [None] * 4


def test_the_interpreter_remembers_nothing() -> None:
    """What Python keeps as the last unhandled error is forgotten."""
    run_and_release(Stage().remembered_by_the_interpreter)
    assert not [name for name in ("last_exc", "last_value", "last_traceback") if hasattr(sys, name)]


def test_inside_the_except_they_are_alive() -> None:
    """Cleaning up inside `except` comes too early: the failed call still holds its tensors."""
    stage = Stage()
    held: list[int] = []

    def look() -> Reading:
        held.append(stage.alive)
        return Reading()

    run_and_release(stage.plain, gauge=look)
    assert held == [2]
    assert stage.alive == 0


def test_the_copy_says_what_happened() -> None:
    """The copy has class, message, traceback with causes, code and finding, all as plain values."""
    stage = Stage()

    def call() -> None:
        try:
            stage.fail()
        except RuntimeError as inner:
            raise torch.AcceleratorError("CUDA error: out of memory") from inner

    caught = run_and_release(call)
    assert isinstance(caught, Caught)
    assert caught.type == "torch.AcceleratorError"
    assert caught.message == "CUDA error: out of memory"
    assert "OutOfMemoryError" in caught.text
    assert "in fail" in caught.text
    assert caught.finding.kind is Kind.RECOVER
    assert caught.code is None
    with pytest.raises(FrozenInstanceError):
        caught.code = 2  # type: ignore[misc]


def test_the_code_of_the_chain() -> None:
    """The CUDA code of a cause is copied, too."""
    inner = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    setattr(inner, "error_code", 700)  # noqa: B010 - the CPU build does not set it
    outer = RuntimeError("stage failed")
    outer.__cause__ = inner
    caught = copy_of(outer)
    assert caught.code == 700
    assert caught.finding.kind is Kind.REPLACE_WORKER


def test_a_job_error_keeps_its_advice() -> None:
    """What an engine said about the job is in the copy: fault, reason and hint."""
    caught = copy_of(NoMemory("the card is full", "a smaller batch"))
    assert (caught.fault, caught.message, caught.hint) == (
        Fault.NO_MEMORY, "the card is full", "a smaller batch",
    )  # fmt: skip


def test_the_copy_is_small() -> None:
    """A message of megabytes and a deep recursion leave a copy of bounded size."""

    def deep(left: int) -> None:
        if left:
            deep(left - 1)
        raise RuntimeError("x" * 5_000_000)

    caught = run_and_release(lambda: deep(300))
    assert isinstance(caught, Caught)
    assert len(caught.message) <= MESSAGE_LIMIT
    assert len(caught.text) <= TEXT_LIMIT


def test_the_measurement_is_taken_at_the_failure() -> None:
    """The reading decides an unclear error."""
    text = "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"

    def call() -> None:
        raise RuntimeError(text)

    full = run_and_release(call, gauge=lambda: Reading(free=1 << 20, total=12 << 30))
    free = run_and_release(call, gauge=lambda: Reading(free=9 << 30, total=12 << 30))
    assert isinstance(full, Caught)
    assert isinstance(free, Caught)
    assert full.finding.kind is Kind.RECOVER
    assert free.finding.kind is Kind.REPLACE_WORKER


def test_a_result_is_a_result() -> None:
    """A call that works gives its result and nothing else happens."""
    assert run_and_release(lambda: 42) == 42


def test_being_told_to_stop_passes_through() -> None:
    """An interrupt or an exit is not a failure of the call."""

    def call() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_and_release(call)


def test_an_error_that_is_still_handled_stays_whole() -> None:
    """A failure during the handling of another error takes nothing away from that one."""
    stage, first = Stage(), ValueError("the first", [1])
    try:
        as_it_is(first)
    except ValueError:
        run_and_release(stage.plain)
        seen = (stage.alive, first.__traceback__ is not None, first.args)
    assert seen == (0, True, ("the first", [1]))


def test_words_stay_in_a_released_error() -> None:
    """Whoever prints a released error still reads what it said."""
    error = NoMemory("the card is full", "a smaller batch")
    release(error)
    assert str(error) == "the card is full (a smaller batch)"


def test_a_message_that_can_not_be_made() -> None:
    """An error whose own text fails is copied all the same."""

    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def call() -> None:
        raise Broken

    caught = run_and_release(call)
    assert isinstance(caught, Caught)
    assert caught.type.endswith("Broken")


def test_many_failures_leave_nothing() -> None:
    """Failure after failure holds no tensor: the next attempt starts with what the first had."""
    stage = Stage()
    for _attempt in range(20):
        run_and_release(stage.in_context_only)
        stage.kept.clear()
    assert stage.alive == 0
