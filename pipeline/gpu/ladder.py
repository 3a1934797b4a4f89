"""The ladder inside one worker: as planned, a quarter of the batch, every saving; then give up.

What follows after that (a fresh worker, the CPU, quarantine) is the queue's to decide, because it
outlives this process.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

import msgspec

from pipeline.core.errors import DeviceLost, JobError, NoMemory, Poisoned
from pipeline.core.faults import Finding, Kind
from pipeline.gpu.manager import Memory
from pipeline.gpu.oom import find_in
from pipeline.gpu.unwind import release
from pipeline.gpu.usage import StageWatch

log = logging.getLogger("penstock.memory")
T = TypeVar("T")


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """How a stage is run: the share of its batch, and whether with every saving it knows."""

    name: str
    share: float = 1.0
    frugal: bool = False


def steps(*, frugal: bool, share: float) -> tuple[Step, ...]:
    """The steps in order; an order that is frugal from the start has only the last."""
    last = Step(name="with every saving", share=0.0, frugal=True)
    if frugal:
        return (last,)
    return (Step(name="as planned"), Step(name=f"{share:.0%} of the batch", share=share), last)


class _Short(msgspec.Struct, frozen=True):
    """Memory ran out; the exception is gone, this is what it said."""

    finding: Finding


def climb(
    memory: Memory,
    stage: str,
    ladder: tuple[Step, ...],
    run: Callable[[Step, StageWatch], T],
    job: int | None = None,
) -> T:
    """Run a stage, stepping down when memory runs out.

    Raises what the stage raised if memory is not the reason, NoMemory after the last step,
    Poisoned or DeviceLost if this process or the card can not go on.
    """
    short: _Short | None = None
    for number, step in enumerate(ladder):
        if short is not None:
            memory.note(
                "recovery", f"{stage}: memory ran out ({short.finding.reason}); next: {step.name}",
                job, stage=stage, step=step.name, library=short.finding.library, number=number,
            )  # fmt: skip
        outcome = _attempt(memory, stage, step, run, job)
        if not isinstance(outcome, _Short):
            return outcome
        short = outcome
        memory.clean("emergency")
    assert short is not None
    raise NoMemory(
        f"memory ran out, even {ladder[-1].name}: {short.finding.reason}",
        "drop a shorter file, or give this machine more memory",
    )


def _attempt(
    memory: Memory,
    stage: str,
    step: Step,
    run: Callable[[Step, StageWatch], T],
    job: int | None,
) -> T | _Short:
    """One run. When memory ran out, everything that the exception held is let go before it ends."""
    failure: BaseException
    with memory.watching(stage, job) as watch:
        try:
            result = run(step, watch)
        except NoMemory as error:
            finding = Finding(kind=Kind.RECOVER, reason=error.reason)
            failure = error
        except JobError:
            raise
        except Exception as error:
            finding = find_in(error, reading=memory.last_reading)
            if finding.kind is Kind.NOT_MEMORY:
                raise
            failure = error
        else:
            memory.learn(watch)
            return result
        memory.learn(watch, oom=True)
    release(failure)
    del failure
    log.warning("%s: %s", stage, finding.reason)
    if finding.kind is Kind.REPLACE_WORKER:
        raise Poisoned(f"{stage}: {finding.reason}")
    if finding.kind is Kind.DEVICE_LOST:
        raise DeviceLost(f"{stage}: {finding.reason}")
    return _Short(finding)
