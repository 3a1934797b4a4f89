"""One real card, in processes that fail, are killed or work: errors as they come, fresh workers.

The figures are printed at the end, for benchmarks/RESULTS.md.
"""

import os
import queue
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from daemon.dispatch.executor import ExecutorEvent, Gone, Heard
from daemon.dispatch.worker_link import WorkerLink
from daemon.settings import WorkerSettings
from pipeline.core.contract import Failed, Finished, FromWorker, Hello, Note
from pipeline.core.faults import Kind, from_exit
from pipeline.gpu.history import History
from pipeline.gpu.verdict import Word
from tests.gpu.ballast import ROOT, plain_environment
from tests.gpu.real_card import (
    GIB,
    MIB,
    Figures,
    cuda_or_skip,
    free_now,
    machine,
    seconds_until_free,
    the_card,
    tidy,
    within,
)
from tests.gpu.trouble import Told, command, run_trouble

# Warnings of libraries on a machine that is not ours are no failures here.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

FIGURES = Figures()
NEAR = 16 * MIB
BACK_S = 5.0  # until the memory of a process that has ended is free
START_S = 15.0  # from nothing to a worker that can use the card
HELD = 8 * GIB
CHILD_S = 20.0  # that a child may take

M = TypeVar("M", bound=FromWorker)


@pytest.fixture(autouse=True)
def torch() -> Any:
    found = cuda_or_skip()
    tidy(found)
    return found


def row(told: Told) -> str:
    what = f"{told.error}: {told.text[:220]}" if told.error else "nothing failed"
    return f"{what} → {told.kind or '-'}; next try: {told.after[:120] or 'works'}"


@pytest.mark.parametrize(
    "allocator", ["backend:native", "expandable_segments:True", "backend:cudaMallocAsync"]
)
@within(25, cases=3)
def test_every_allocator_s_oom_is_recovered(allocator: str) -> None:
    """Whatever allocator torch uses, its OOM asks for recovery, and a smaller try works."""
    told = run_trouble("oom", allocator=allocator, timeout=CHILD_S)
    FIGURES.add(f"OOM with {allocator}", row(told))
    assert told.status == 0, told.tail
    assert told.kind == Kind.RECOVER, told
    assert not told.after


@pytest.mark.parametrize("library", ["cublas", "cudnn"])
@within(25, cases=2)
def test_libraries_of_the_card_on_a_full_card(library: str) -> None:
    """What cuBLAS and cuDNN say on a full card is never taken for a bug of the stage."""
    told = run_trouble(library, timeout=CHILD_S)
    FIGURES.add(f"{library} on a full card", row(told))
    assert told.status == 0, told.tail
    if told.error:
        assert told.kind in (Kind.RECOVER, Kind.REPLACE_WORKER), told
    if told.kind == Kind.RECOVER:
        assert not told.after, "it was called recoverable, and the next try failed"


@within(25)
def test_ctranslate2_on_a_full_card() -> None:
    """CTranslate2 without memory asks for recovery, or for a new worker if it took its process."""
    ctranslate2 = pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed")
    if not hasattr(ctranslate2.StorageView, "to_device"):
        pytest.skip("this ctranslate2 can not put an array on the card")
    if not ctranslate2.get_cuda_device_count():
        pytest.skip("this ctranslate2 sees no card")
    told = run_trouble("ctranslate2", timeout=CHILD_S)
    if told.status:
        found = from_exit(told.status, told.tail, None)
        FIGURES.add("CTranslate2 on a full card", f"died ({told.status}): {' '.join(told.tail)}")
        assert found.kind is Kind.REPLACE_WORKER
        return
    FIGURES.add("CTranslate2 on a full card", row(told))
    assert told.kind in (Kind.RECOVER, Kind.REPLACE_WORKER), told


@within(40)
def test_a_poisoned_process_is_replaced() -> None:
    """After a device-side assert every call fails and says replace; the next process is fine."""
    told = run_trouble("assert", timeout=CHILD_S)
    FIGURES.add("device-side assert", row(told))
    assert told.status == 0, told.tail
    assert told.kind == Kind.REPLACE_WORKER, told
    assert told.after.startswith(Kind.REPLACE_WORKER), told
    begun = time.monotonic()
    fresh = run_trouble("none", timeout=CHILD_S)
    took = time.monotonic() - begun
    assert fresh.status == 0, fresh.tail
    assert not fresh.error
    assert fresh.first_kernel <= START_S
    FIGURES.add("next process: first kernel after / whole life",
                f"{fresh.first_kernel:.2f} s / {took:.2f} s")  # fmt: skip


@pytest.mark.parametrize("how", ["ends", "is killed"])
@within(25, cases=2)
def test_a_process_that_is_gone_has_given_everything_back(how: str) -> None:
    """Within 5 s of its end, wanted or not, the card has as much free as before, within 16 MiB."""
    card = the_card()
    before = free_now(card)
    with subprocess.Popen(
        command("hold", "--size", str(HELD)), cwd=ROOT, env=plain_environment(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        try:
            assert int(process.stdout.readline() or 0) == HELD
            during = free_now(card)
            begun = time.monotonic()
            if how == "ends":
                process.stdin.close()
            else:
                process.kill()
            process.wait(BACK_S)
            back = seconds_until_free(card, before - NEAR, BACK_S)
            took = time.monotonic() - begun
        finally:
            process.kill()
    assert during <= before - HELD
    assert back is not None
    assert took <= BACK_S
    missing = (before - free_now(card)) / MIB
    FIGURES.add(f"a process that held 8 GiB {how}: free again after / missing",
                f"{took:.2f} s / {missing:.0f} MiB")  # fmt: skip


class Ends:
    """A real worker and all that it said."""

    def __init__(self, learned: Path) -> None:
        self.events: queue.Queue[ExecutorEvent] = queue.Queue()
        self.said: list[FromWorker] = []
        self.link = WorkerLink(
            WorkerSettings(lanes=1), self.events.put, learned=os.fsencode(learned)
        )

    def hear(self, kind: type[M]) -> M:
        """The next message of a kind; the others are kept."""
        while True:
            event = self.events.get()  # the test's own bound ends it
            assert isinstance(event, Heard), event
            self.said.append(event.message)
            assert not isinstance(event.message, Failed), event.message
            if isinstance(event.message, kind):
                return event.message

    def end(self) -> None:
        """Kill it and wait until its end was told."""
        self.link.kill()
        while not isinstance(self.events.get(timeout=BACK_S), Gone):
            pass


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    made = Ends(tmp_path / "learned.db")
    yield made
    made.link.close(5.0)


@within(60)
def test_a_real_worker_transcribes_on_the_card(ends: Ends, room: bytes, tmp_path: Path) -> None:
    """A file goes through the real worker on the card: verified, learned, and all given back."""
    for package in ("whisper", "av", "numpy", "onnxruntime", "silero_vad"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    from tests.fakes.speech import save_tiny_whisper, speech_order

    models = tmp_path / "models"
    save_tiny_whisper(models / "small.pt")
    order = msgspec.structs.replace(
        speech_order(room, models=os.fsencode(models), engine="openai-whisper", language="en"),
        device="cuda",
    )
    card = the_card()
    before = free_now(card)
    begun = time.monotonic()
    ends.link.start("cuda")
    hello = ends.hear(Hello)
    started = time.monotonic() - begun
    ends.link.submit(order)
    finished = ends.hear(Finished)
    took = time.monotonic() - begun - started
    ends.end()
    back = seconds_until_free(card, before - NEAR, BACK_S)

    report = next(report for report in finished.reports if report.stage == "transcribe")
    assert hello.card == card.name()
    assert started <= START_S
    assert report.device == "cuda"
    assert report.facts["gpu_use"]["word"] != Word.NOT_USED
    assert not [said for said in ends.said if isinstance(said, Note) and said.warning]
    assert back is not None
    with closing(History.open(os.fsencode(tmp_path / "learned.db"))) as history:
        learned = next(row for row in history.table() if row.stage == "transcribe")
    assert learned.device == hello.card
    assert sum(stats.runs for stats in learned.batches) == 1
    assert not any(stats.ooms for stats in learned.batches)
    peak = (learned.batches[0].peak or 0) / MIB
    FIGURES.add("worker: hello / first file done / memory back after SIGKILL",
                f"{started:.2f} s / {took:.2f} s / {back:.2f} s")  # fmt: skip
    FIGURES.add("its verdict; learned", f"{report.facts['gpu_use']}; batch "
                f"{learned.batches[0].batch}: {peak:.0f} MiB")  # fmt: skip


def test_the_figures_are_printed(torch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What was measured is shown, even when every test has passed."""
    with capsys.disabled():
        print(FIGURES.table(f"Other processes: {machine(torch)}"))
