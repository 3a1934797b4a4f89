"""Readings of this process tree and, where there is one, of the card."""

import os
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.gauge import (
    Card,
    Gauge,
    open_card,
    process_tree,
    resident,
    share_of,
    total,
    why,
)

BIG = 50_000_000
HOLDS_MEMORY = "import sys; held = bytearray(b'x') * int(sys.argv[1]); print(); sys.stdin.read()"


class NvmlError(Exception):
    pass


class SmallNvml:
    """A driver that says what it is told to; what is missing is an error of the driver."""

    NVMLError = NvmlError

    def __init__(self, **says: Any) -> None:
        self._says = says

    def __getattr__(self, name: str) -> Any:
        def question(*_args: object) -> Any:
            if name not in self._says:
                raise NvmlError(name)
            return self._says[name]

        return question


def holds(pid: int, size: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=size)


def test_memory_of_children_counts() -> None:
    """The reading covers children, also those that another thread started."""
    gauge = Gauge(gpu=False)
    before = gauge.read().rss
    assert before is not None
    children: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        children.append(
            subprocess.Popen(
                [sys.executable, "-c", HOLDS_MEMORY, str(BIG)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        (child,) = children
        assert child.stdout
        child.stdout.readline()
        assert child.pid in process_tree()
        after = gauge.read().rss
        assert after is not None
        grown.append(after - before)

    grown: list[int] = []
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    children[0].communicate()
    assert grown[0] > BIG
    assert children[0].pid not in process_tree()


def test_grandchildren_belong_to_the_tree() -> None:
    """A child's child, such as an ffmpeg of a helper, is counted too."""
    script = (
        "import subprocess, sys; inner = subprocess.Popen(['cat'], stdin=subprocess.PIPE);"
        "print(inner.pid, flush=True); sys.stdin.read(); inner.communicate()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        inner = int(child.stdout.readline())
        assert {os.getpid(), child.pid, inner} <= process_tree()
        child.communicate()


def test_without_the_card_nvml_is_not_touched() -> None:
    """A gauge for the daemon imports no NVML and leaves the card's fields unknown."""
    script = (
        "import sys; from pipeline.core.gauge import Gauge; u = Gauge(gpu=False).read();"
        "assert u.rss and u.ram_free and u.vram is u.vram_free is u.gpu is None;"
        "assert not {'pynvml', 'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_card_is_there_or_a_reason_is() -> None:
    """On any machine a gauge with the card has either its name or the reason why not."""
    gauge = Gauge(gpu=True)
    usage = gauge.read()
    assert usage.rss
    assert bool(gauge.why_no_gpu) == (gauge.gpu_name() is None)
    if gauge.why_no_gpu:
        assert usage.vram is usage.vram_free is usage.gpu is None
        assert gauge.driver() is None


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_hidden_card_is_not_looked_for(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    """With every card hidden from CUDA the reason says so."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert open_card() == (None, "CUDA_VISIBLE_DEVICES hides every card")


def test_a_missing_package_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without nvidia-ml-py there is a plain reason and no error."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    gauge = Gauge(gpu=True)
    assert gauge.why_no_gpu == "the package nvidia-ml-py is not installed"
    assert gauge.read().vram is None


def test_reasons_are_plain_words() -> None:
    """Known errors of the driver are said plainly, unknown ones in its own words."""
    assert "not loaded" in why(9, "", "0")
    assert "libnvidia-ml" in why(12, "", "0")
    assert why(6, "", "GPU-{x}").endswith("not there: GPU-{x}")
    assert why(999, "odd {text}", "0") == "NVML says: odd {text}"


def test_a_card_says_what_it_knows() -> None:
    """Each figure comes from the driver's own answer."""
    card = Card(
        SmallNvml(
            nvmlDeviceGetName=b"NVIDIA H200",
            nvmlSystemGetDriverVersion="580.95.05",
            nvmlDeviceGetMemoryInfo=SimpleNamespace(free=7, used=5, total=12),
            nvmlDeviceGetUtilizationRates=SimpleNamespace(gpu=93, memory=10),
            nvmlDeviceGetComputeRunningProcesses=[holds(os.getpid(), 5), holds(1, 9)],
        ),
        None,
    )
    assert (card.name(), card.driver()) == ("NVIDIA H200", "580.95.05")
    assert (card.free(), card.utilisation()) == (7, 93)
    assert card.used_by({os.getpid()}) == 5


def test_a_card_that_says_nothing_leaves_gaps() -> None:
    """A driver that supports nothing makes every figure unknown and raises nothing."""
    card = Card(SmallNvml(), None)
    answers = (card.name(), card.driver(), card.free(), card.utilisation(), card.used_by({1}))
    assert answers == (None,) * 5


def test_our_share_of_the_card() -> None:
    """Our share is the sum over our processes, and unknown where the list is not about us."""
    everybody, nobody = (lambda _pid: True), (lambda _pid: False)
    assert share_of({1: 5, 2: 6, 3: 7}, {1, 3}, everybody) == 12
    assert share_of({2: 6}, {1}, everybody) == 0
    assert share_of({}, {1}, nobody) == 0
    assert share_of({2: 6}, {1}, nobody) is None  # the host's numbers, seen from a container
    assert share_of({1: None, 2: 6}, {1}, everybody) is None  # the driver does not tell


@given(st.lists(st.none() | st.integers(0, 2**60)))
def test_a_total_is_of_what_is_known(values: list[int | None]) -> None:
    """A sum leaves out what is unknown, and is unknown if everything is."""
    known = [value for value in values if value is not None]
    assert total(values) == (sum(known) if known else None)


def test_a_process_that_is_gone_holds_nothing() -> None:
    """The memory of a process that does not exist is unknown; that of this one is not."""
    assert resident(2**22 + 1) is None
    assert (resident() or 0) > 1_000_000


@pytest.mark.gpu
def test_a_real_card_is_read() -> None:
    """On a machine with a card its name, driver, free memory and use are known."""
    gauge = Gauge(gpu=True)
    assert gauge.why_no_gpu == ""
    assert gauge.driver()
    usage = gauge.read()
    assert usage.vram_free
    assert usage.gpu is not None
