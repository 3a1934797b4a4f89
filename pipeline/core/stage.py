"""What the runner hands a stage and what a stage hands back.

A stage is a module of pipeline.stages with two names: LANE, "cpu" or "gpu" (gpu stages take turns
on one token), and `run(work) -> StageResult`. It reads earlier stages' artefacts from the scratch
folder, writes its own there, and writes outputs into the staging folder. It may be run again from
its start after a crash, so it replaces whatever an earlier attempt left of its own files.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from pipeline.core.contract import Order
from pipeline.core.files import open_beneath
from pipeline.core.recipes import Options
from pipeline.core.text import fit_name


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the memory of a batched stage depends on."""

    model: str = ""
    dtype: str = ""
    device: str = "cpu"
    versions: str = ""  # of the libraries that hold the memory
    seconds: float = 0.0  # of media in one item of the batch


def _as_wanted(wanted: int, _load: Load) -> int:
    return wanted


def _for_once(_name: str, load: Callable[[], Any]) -> AbstractContextManager[Any]:
    return nullcontext(load())


@dataclass(frozen=True, kw_only=True)
class Work:
    """One job as a stage sees it."""

    order: Order
    options: Options
    # Tells the daemon how far this stage is (0 to 1, None if unknown); raises Cancelled when the
    # job was cancelled. Call it at least every few seconds: a silent stage counts as hung.
    beat: Callable[[float | None], None]
    # How many items to take at once: at most what is wanted here, by the plan of memory. What the
    # stage then holds at its highest is learned under this load; ask once, before the first batch.
    choose_batch: Callable[[int, Load], int] = _as_wanted
    # A heavy object by name, loaded if nobody has it yet; kept for later while memory allows.
    lease: Callable[[str, Callable[[], Any]], AbstractContextManager[Any]] = _for_once
    frugal: bool = False  # memory ran out before: use every saving, whatever it costs in time

    def open_source(self) -> BinaryIO:
        """The dropped file, opened without following links; the caller closes it."""
        return open_beneath(self.order.root, self.order.name)

    def artefact(self, name: str) -> bytes:
        """Path of an intermediate file, e.g. `audio.s16`."""
        return os.path.join(self.order.scratch, name.encode())

    def output(self, suffix: str) -> bytes:
        """Path of a finished file: the drop's stem and this suffix, e.g. `.srt`."""
        return os.path.join(self.order.staging, fit_name(self.order.stem, suffix.encode()))


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """Which engine ran, on what, and what it left."""

    engine: str  # name and version, e.g. "silero-vad 6.2.3"
    device: str = "cpu"
    fallback: str = ""  # why the main engine did not run
    facts: dict[str, Any] = field(default_factory=dict)  # plain JSON values
    artefacts: tuple[bytes, ...] = ()  # paths in the scratch folder
    outputs: tuple[bytes, ...] = ()  # paths in the staging folder
