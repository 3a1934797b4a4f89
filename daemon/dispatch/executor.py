"""The executor protocol: whatever runs orders, one process here or a cluster elsewhere.

An order is sent at most once; what became of it is told by events. `lost` orders go back to the
ledger, which alone counts attempts.
"""

from typing import Protocol

import msgspec

from pipeline.core.contract import FromWorker, Order


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """The worker said something. `generation` tells one worker process from the next."""

    generation: int
    message: FromWorker


class Gone(msgspec.Struct, frozen=True, kw_only=True):
    """The worker process ended; `status` as subprocess gives it (negative: the signal)."""

    generation: int
    status: int
    tail: tuple[str, ...] = ()  # the last lines that it printed


ExecutorEvent = Heard | Gone


class Executor(Protocol):
    """Takes orders while it is up; events arrive on the loop's queue."""

    @property
    def generation(self) -> int:
        """Grows with every start."""

    @property
    def up(self) -> bool:
        """Whether a worker process is running."""

    @property
    def pid(self) -> int | None:
        """The worker's process id while it is up."""

    def start(self, device: str = "auto") -> None:
        """Start a worker for auto, cpu or cuda; raises LinkError if it can not be started."""

    def submit(self, order: Order) -> None:
        """Send an order; raises LinkError if the worker is not there any more."""

    def cancel(self, job: int) -> None:
        """Ask for a job to stop at its next safe point."""

    def stop(self) -> None:
        """Ask the worker to leave once it is idle."""

    def kill(self) -> None:
        """End the worker's whole process group now; Gone follows."""

    def close(self, timeout: float) -> None:
        """Kill what is left and wait for the link's threads."""
