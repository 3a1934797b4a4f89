"""Walks one order through its recipe: stages in order, a checkpoint after each, one answer."""

import errno
import hashlib
import importlib
import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import msgspec

from pipeline.core.contract import (
    Beat,
    Failed,
    Fault,
    Finished,
    FromWorker,
    Order,
    Output,
    StageDone,
    StageReport,
    Usage,
)
from pipeline.core.errors import Cancelled, JobError
from pipeline.core.files import FULL, make_folders, remove_if_there, sync_file, write_whole
from pipeline.core.recipes import Options, Recipe, read_options, recipe_named
from pipeline.core.stage import StageResult, Work
from pipeline.gpu.ladder import Step, climb, steps
from pipeline.gpu.manager import Memory
from pipeline.gpu.usage import StageWatch

BEAT_EVERY_S = 0.25  # beats closer together than this are not sent
TOKEN_WAIT_S = 1.0  # while a stage waits for the card it beats this often
DETAIL_LINES = 12  # of a traceback


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A finished stage as the next attempt finds it; void if `key` differs or a file does."""

    key: str
    report: StageReport
    artefacts: list[Output]
    outputs: list[Output]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all jobs of one worker share."""

    say: Callable[[FromWorker], None]
    token: threading.Lock  # whoever holds it may use the card
    usage: Callable[[], Usage]
    memory: Memory


def run_order(order: Order, bench: Bench, cancelled: threading.Event) -> Finished | Failed:
    """Run every stage that has no valid checkpoint yet; never raises for a job's own troubles."""
    walk = _Walk(order, bench, cancelled)
    try:
        return walk.run()
    except JobError as error:
        return walk.failed(error.fault, error.reason, error.hint)
    except MemoryError as error:
        return walk.failed(Fault.NO_MEMORY, f"host memory ran out: {error}", detail=_tail())
    except OSError as error:
        fault = Fault.NO_SPACE if error.errno in FULL else Fault.TRANSIENT
        fault = Fault.NO_MEMORY if error.errno == errno.ENOMEM else fault
        return walk.failed(fault, f"{error.strerror or error}", detail=_tail())
    except Exception as error:  # noqa: BLE001  # the wall between a stage's bug and the worker
        return walk.failed(Fault.TRANSIENT, f"{type(error).__name__}: {error}", detail=_tail())


def _tail() -> str:
    return "\n".join(traceback.format_exc().splitlines()[-DETAIL_LINES:])


class _Walk:
    """One order on its way; holds what the steps share."""

    def __init__(self, order: Order, bench: Bench, cancelled: threading.Event) -> None:
        self.order = order
        self.bench = bench
        self.cancelled = cancelled
        self.stage = ""
        self.done_share = 0.0
        self.last_beat = 0.0

    def run(self) -> Finished:
        recipe = recipe_named(self.order.recipe)
        options = read_options(recipe, self.order.options)
        make_folders(self.order.scratch)
        make_folders(self.order.staging)
        outputs: list[Output] = []
        reports: list[StageReport] = []
        for stage, weight in zip(recipe.stages, recipe.weights, strict=True):
            self.stage = stage
            checkpoint = self._resume(recipe, stage) or self._run_stage(
                recipe, stage, options, weight
            )
            self.done_share += weight
            outputs += checkpoint.outputs
            reports.append(checkpoint.report)
            self.bench.say(StageDone(job=self.order.job, report=checkpoint.report))
        self._sweep_staging({output.name for output in outputs})
        return Finished(
            job=self.order.job, attempt=self.order.attempt, outputs=outputs, reports=reports
        )

    def failed(self, fault: Fault, reason: str, hint: str = "", detail: str = "") -> Failed:
        return Failed(
            job=self.order.job, attempt=self.order.attempt, fault=fault,
            reason=reason, hint=hint, stage=self.stage, detail=detail,
        )  # fmt: skip

    def _run_stage(self, recipe: Recipe, name: str, options: Options, weight: float) -> Checkpoint:
        module = importlib.import_module(f"pipeline.stages.{name}")
        self._beat(0.0, weight, always=True)
        begun = time.monotonic()
        result, use = self._on_its_lane(module, options, weight)
        report = StageReport(
            stage=name, engine=result.engine, device=result.device, fallback=result.fallback,
            seconds=round(time.monotonic() - begun, 3), usage=self.bench.usage(),
            facts=result.facts | use,
        )  # fmt: skip
        checkpoint = Checkpoint(
            key=self._key(recipe, name),
            report=report,
            artefacts=[_on_disk(path) for path in result.artefacts],
            outputs=[_on_disk(path) for path in result.outputs],
        )
        write_whole(self._checkpoint_path(name), msgspec.json.encode(checkpoint))
        return checkpoint

    def _on_its_lane(
        self, module: ModuleType, options: Options, weight: float
    ) -> tuple[StageResult, dict[str, Any]]:
        """Run the stage down the ladder; on the card's lane, in turn and when memory admits it."""
        if module.LANE != "gpu":
            return self._climb(module, options, weight)
        while not self.bench.token.acquire(timeout=TOKEN_WAIT_S):
            self._beat(None, weight)
        try:
            self.bench.memory.wait_for_room(lambda: self._beat(None, weight))
            return self._climb(module, options, weight)
        finally:
            self.bench.token.release()

    def _climb(
        self, module: ModuleType, options: Options, weight: float
    ) -> tuple[StageResult, dict[str, Any]]:
        memory, order = self.bench.memory, self.order
        run: Callable[[Work], StageResult] = module.run

        def once(step: Step, watch: StageWatch) -> tuple[StageResult, dict[str, Any]]:
            work = Work(
                order=order, options=options, frugal=step.frugal,
                beat=lambda part: self._beat(part, weight),
                choose_batch=partial(
                    memory.choose_batch, watch, step.share, lambda: self._beat(None, weight)
                ),
                lease=memory.shelf.lease,
            )  # fmt: skip
            result = run(work)
            if module.LANE != "gpu":
                return result, {}
            return result, memory.verdict(watch, order, result.device)

        ladder = steps(frugal=order.frugal, share=memory.settings.oom_share)
        return climb(memory, self.stage, ladder, once, order.job)

    def _beat(self, part: float | None, weight: float, *, always: bool = False) -> None:
        if self.cancelled.is_set():
            raise Cancelled("the job was cancelled")
        now = time.monotonic()
        if not always and now - self.last_beat < BEAT_EVERY_S:
            return
        self.last_beat = now
        overall = self.done_share + weight * min(1.0, part or 0.0)
        self.bench.say(
            Beat(job=self.order.job, stage=self.stage, fraction=part, overall=min(1.0, overall))
        )

    def _key(self, recipe: Recipe, stage: str) -> str:
        """What a checkpoint depends on: the bytes, the recipe, its options, the stage's code."""
        facts = (self.order.mark, recipe.name, recipe.stages, stage, self.order.options)
        facts_line = msgspec.json.encode((*facts, self.order.device), order="sorted")
        return hashlib.sha256(facts_line).hexdigest()

    def _checkpoint_path(self, stage: str) -> bytes:
        return os.path.join(self.order.scratch, f"{stage}.done.json".encode())

    def _resume(self, recipe: Recipe, stage: str) -> Checkpoint | None:
        try:
            with open(self._checkpoint_path(stage), "rb") as file:
                found = msgspec.json.decode(file.read(), type=Checkpoint)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        if found.key != self._key(recipe, stage):
            return None
        if not all(_still(self.order.scratch, file) for file in found.artefacts):
            return None
        if not all(_still(self.order.staging, file) for file in found.outputs):
            return None
        report = msgspec.structs.replace(found.report, resumed=True)
        return msgspec.structs.replace(found, report=report)

    def _sweep_staging(self, wanted: set[bytes]) -> None:
        """What an earlier attempt with other options may have left there is not a result."""
        for name in os.listdir(self.order.staging):
            if name not in wanted:
                remove_if_there(os.path.join(self.order.staging, name))


def _on_disk(path: bytes) -> Output:
    sync_file(path)
    return Output(name=os.path.basename(path), size=os.stat(path).st_size)


def _still(folder: bytes, file: Output) -> bool:
    try:
        return os.lstat(os.path.join(folder, file.name)).st_size == file.size
    except FileNotFoundError:
        return False
