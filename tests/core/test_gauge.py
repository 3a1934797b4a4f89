"""Readings of this process tree and, where there is one, of the card."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.card import find_card
from pipeline.core.gauge import (
    Card,
    Gauge,
    one_budget,
    open_card,
    process_tree,
    resident,
    total,
    why,
    with_own,
)
from pipeline.core.processes import HOST_SPACE, ours_among, under_wsl
from pipeline.core.reading import Reading
from tests.fakes.card import GIB, MIB, FakeCard

BIG = 50_000_000
HOLDS_MEMORY = (
    "import sys; held = bytearray(b'x') * int(sys.argv[1]); print(flush=True); sys.stdin.read()"
)


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
        HOST_SPACE,
    )
    assert (card.name(), card.driver()) == ("NVIDIA H200", "580.95.05")
    assert (card.free(), card.utilisation()) == (7, 93)
    assert card.used_by({os.getpid()}) == 5


def test_a_card_that_says_nothing_leaves_gaps() -> None:
    """A driver that supports nothing makes every figure unknown and raises nothing."""
    card = Card(SmallNvml(), None, HOST_SPACE)
    answers = (card.name(), card.driver(), card.free(), card.utilisation(), card.used_by({1}))
    assert answers == (None,) * 5


def space(root: Path, pid: int, numbers: str, link: str) -> None:
    folder = root / str(pid)
    (folder / "ns").mkdir(parents=True)
    (folder / "status").write_text(f"Name:\tffmpeg\nPid:\t{pid}\nNSpid:\t{numbers}\nThreads:\t1\n")
    (folder / "ns/pid").symlink_to(link)


def test_on_the_host_the_numbers_are_ours() -> None:
    """In the host's own namespace the driver's numbers are taken as they are."""
    assert ours_among([1, 2, 3], {1, 3, 9}, HOST_SPACE) == {1, 3}
    assert ours_among([2], {1}, HOST_SPACE) == set()
    assert ours_among([], {1}, HOST_SPACE) == set()


def test_in_a_container_the_hosts_numbers_are_mapped(tmp_path: Path) -> None:
    """Where the host's /proc is visible, our processes are found by their inner numbers."""
    mine, other = "pid:[4026532001]", "pid:[4026532002]"
    space(tmp_path, 7001, "7001\t12", mine)
    space(tmp_path, 7002, "7002\t12", other)  # another container's process number 12
    space(tmp_path, 7003, "7003\t40\t13", mine)  # two levels deep
    space(tmp_path, 7004, "7004", HOST_SPACE)
    roots = ("/nowhere", str(tmp_path))
    assert ours_among([7001, 7002, 7003, 7004], {12, 13}, mine, roots) == {7001, 7003}
    assert ours_among([7002, 7004], {12, 13}, mine, roots) is None


def test_in_a_container_nothing_is_guessed() -> None:
    """Without the host's /proc a list that is not about us says nothing, nor does an empty one."""
    inner = "pid:[4026532001]"
    gone, here = 2**22 + 1, os.getpid()
    assert ours_among([gone], {here}, inner) is None
    assert ours_among([here, gone], {here}, inner) is None
    assert ours_among([], {here}, inner) is None
    assert ours_among([here], {here}, inner) == {here}  # somebody has translated


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


# What a reading says when the driver tells everything, and with each of its answers refused.


def test_a_reading_is_complete() -> None:
    """On a machine whose driver tells everything, a reading has every figure, from one moment."""
    card = FakeCard(12 * GIB, reserve=300 * MIB, neighbour=GIB, context=500 * MIB)
    gauge = card.gauge()
    block = card.allocate(2 * GIB)
    card.busy = 37
    reading = gauge.reading(5.0, allocated=card.allocated, reserved=card.reserved)
    assert reading.at == 5.0
    assert (reading.total, reading.free) == (12 * GIB, card.free)
    assert (reading.own, reading.own_estimated) == (2 * GIB + 500 * MIB, False)
    assert (reading.listed, reading.others) == (True, 1)
    assert (reading.allocated, reading.reserved) == (block.size, 2 * GIB)
    assert (reading.gpu_percent, reading.own_percent) == (37, 37)
    assert (reading.encoder_sessions, reading.own_sessions) == (0, 0)
    assert not reading.unified
    assert reading.host_total
    assert reading.host_free
    assert reading.host_own
    assert reading.host_free <= reading.host_total
    assert gauge.gaps() == {}
    assert not gauge.lost()
    assert gauge.why_no_gpu == ""


QUESTIONS = (
    "nvmlDeviceGetName",
    "nvmlSystemGetDriverVersion",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlDeviceGetProcessUtilization",
    "nvmlDeviceGetEncoderSessions",
    "nvmlDeviceGetDisplayActive",
)
CODES = (
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_NOT_FOUND,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_UNKNOWN,
)


@given(st.dictionaries(st.sampled_from(QUESTIONS), st.sampled_from(CODES)))
def test_no_refusal_is_an_error(refused: dict[str, int]) -> None:
    """Whatever the driver refuses, and however, a reading is taken, nothing in it is negative."""
    card = FakeCard(12 * GIB, neighbour=GIB)
    gauge = card.gauge()
    card.refuse.update(refused)
    held = card.allocate(GIB)
    reading = gauge.reading(0.0, allocated=held.size, reserved=held.size)
    assert reading.own is not None  # the framework's own figure is there in any case
    assert reading.own >= GIB
    sizes = (reading.total, reading.free, reading.own, reading.host_free, reading.host_total)
    assert all(size >= 0 for size in sizes if size is not None)
    assert gauge.reserve() > 0
    gauge.read()


@pytest.mark.parametrize(
    ("question", "gap"),
    [
        ("nvmlDeviceGetMemoryInfo", "free memory"),
        ("nvmlDeviceGetUtilizationRates", "use"),
        ("nvmlDeviceGetProcessUtilization", "use by process"),
        ("nvmlDeviceGetEncoderSessions", "encoder sessions"),
    ],
)
def test_a_refusal_is_named(question: str, gap: str) -> None:
    """What the driver refused is named with its reason, and no longer when it answers again."""
    card = FakeCard(12 * GIB)
    gauge = card.gauge()
    card.refuse[question] = pynvml.NVML_ERROR_NO_PERMISSION
    gauge.reading(0.0)
    assert gauge.gaps() == {gap: "Insufficient Permissions"}
    card.refuse.clear()
    gauge.reading(1.0)
    assert gauge.gaps() == {}


def test_a_lost_card_is_known() -> None:
    """A card that fell off the bus makes every figure of it unknown, and the gauge says so."""
    card = FakeCard(12 * GIB)
    gauge = card.gauge()
    card.refuse = dict.fromkeys(QUESTIONS, pynvml.NVML_ERROR_GPU_IS_LOST)
    reading = gauge.reading(0.0)
    assert gauge.lost()
    assert gauge.gaps()["free memory"] == "GPU is lost"
    assert (reading.total, reading.free, reading.own, reading.listed) == (None,) * 4
    assert not reading.unified


def test_a_card_of_no_size_is_a_gap() -> None:
    """A driver that says total = 0 has said nothing about memory."""
    card = FakeCard(0)
    gauge = card.gauge()
    reading = gauge.reading(0.0)
    assert (reading.total, reading.free) == (None, None)
    assert "no memory" in gauge.gaps()["free memory"]


def test_without_nvml_the_framework_is_asked() -> None:
    """Where NVML is silent, the framework's idea of the card counts."""
    gauge = Gauge(gpu=False)
    reading = gauge.reading(0.0, allocated=3, reserved=5, free=7, total_size=20)
    assert (reading.total, reading.free, reading.own, reading.own_estimated) == (20, 7, 5, True)


def refusing_processes(card: FakeCard) -> None:
    for question in QUESTIONS[4:6]:
        card.refuse[question] = pynvml.NVML_ERROR_NOT_SUPPORTED


def test_without_processes_our_share_is_estimated() -> None:
    """Where the driver lists no processes, our share is the fall of free memory, and marked so."""
    card = FakeCard(12 * GIB, neighbour=GIB)
    gauge = card.gauge()
    refusing_processes(card)
    blocks = [card.allocate(2 * GIB)]
    reading = gauge.reading(0.0)
    assert (reading.own, reading.own_estimated, reading.listed) == (2 * GIB, True, None)
    assert "processes" in gauge.gaps()
    card.neighbour = 0
    assert gauge.reading(1.0).own == GIB  # wrong by the neighbour's move, but never negative
    assert gauge.reading(1.0, reserved=2 * GIB).own == 2 * GIB  # the framework knows better
    del blocks
    card.empty_cache()
    assert gauge.reading(2.0).own == 0
    gauge.rebase()
    with card.use(GIB):
        assert gauge.reading(3.0).own == GIB


def test_the_hosts_numbers_in_a_container_are_not_zero_use() -> None:
    """A list of other numbers does not make our share 0: it is estimated."""
    card = FakeCard(12 * GIB)
    fake = Card(card.nvml(), "the card", HOST_SPACE)
    fake._space = "pid:[4026532001]"
    gauge = Gauge(gpu=True, card=fake)
    card.pid = 2**22 + 5
    held = card.allocate(GIB)
    reading = gauge.reading(0.0)
    assert (reading.own, reading.own_estimated) == (held.size, True)
    assert (reading.listed, reading.own_percent, reading.others) == (None, None, None)
    assert gauge.gaps() == {"our processes": "they have other numbers here"}


def test_a_process_without_a_figure_is_estimated() -> None:
    """usedGpuMemory = None (Windows, WSL) leaves the list readable and the size estimated."""
    told = Reading(free=5, listed=True, reserved=2)
    assert with_own(told, None, 12) == Reading(
        free=5, listed=True, reserved=2, own=7, own_estimated=True
    )
    assert with_own(Reading(), None, None) == Reading()
    card = Card(
        SmallNvml(
            nvmlDeviceGetMemoryInfo=SimpleNamespace(free=7, used=5, total=12),
            nvmlDeviceGetComputeRunningProcesses=[holds(os.getpid(), None)],
        ),
        None,
        HOST_SPACE,
    )
    look = card.look({os.getpid()})
    assert look.own is None
    assert look.listed or under_wsl()


@pytest.mark.parametrize("way", ["refused", "named"])
def test_one_memory_is_one_budget(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Where card and host share one memory, size and free are the host's and ours is the sum."""
    card = FakeCard(12 * GIB)
    if way == "refused":
        card.refuse["nvmlDeviceGetMemoryInfo"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    else:
        monkeypatch.setattr(Card, "name", lambda _self: "NVIDIA GB10")
    gauge = card.gauge()
    reading = gauge.reading(0.0)
    assert reading.unified
    assert (reading.total, reading.free) == (reading.host_total, reading.host_free)
    assert reading.own == reading.host_own
    assert gauge.reserve() >= 2 * 400_000_000


def test_one_memory_is_not_counted_twice() -> None:
    """The sum of card and RAM is bounded by what everybody together holds."""
    host = Reading(unified=True, host_total=100, host_free=40, host_own=50)
    assert one_budget(host, 5).own == 55
    assert one_budget(host, 30).own == 60
    assert one_budget(host, 5).own_estimated is False
    assert one_budget(host, None).own_estimated is True
    assert one_budget(Reading(unified=True), None).own is None


def test_one_question_of_two_is_enough() -> None:
    """A card that lists no graphics processes still tells what we hold."""
    card = FakeCard(12 * GIB)
    card.refuse["nvmlDeviceGetGraphicsRunningProcesses"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    gauge = card.gauge()
    held = card.allocate(GIB)
    assert gauge.reading(0.0).own == held.size
    assert gauge.gaps() == {}


def test_nonsense_and_silence_about_use() -> None:
    """Use beyond 100 % is not believed; no samples at all mean that nothing ran."""
    card = Card(
        SmallNvml(
            nvmlDeviceGetComputeRunningProcesses=[holds(os.getpid(), 1)],
            nvmlDeviceGetProcessUtilization=[
                SimpleNamespace(pid=os.getpid(), smUtil=40, timeStamp=3),
                SimpleNamespace(pid=os.getpid(), smUtil=4_000_000, timeStamp=4),
                SimpleNamespace(pid=1, smUtil=90, timeStamp=5),
            ],
        ),
        None,
        HOST_SPACE,
    )
    assert card.look({os.getpid()}).own_percent in (40, None if under_wsl() else 40)
    quiet = FakeCard(GIB)
    quiet.refuse["nvmlDeviceGetProcessUtilization"] = pynvml.NVML_ERROR_NOT_FOUND
    assert quiet.gauge().reading(0.0).own_percent == 0


class DividedNvml(SmallNvml):
    """A driver with one card, divided into slices at these places."""

    NVMLError = pynvml.NVMLError

    def __init__(self, *places: int, divided: bool = True) -> None:
        super().__init__(
            nvmlInit=None,
            nvmlShutdown=None,
            nvmlDeviceGetCount=1,
            nvmlDeviceGetHandleByIndex="card",
            nvmlDeviceGetMigMode=(int(divided), int(divided)),
            nvmlDeviceGetMaxMigDeviceCount=7,
            nvmlDeviceGetUUID=b"GPU-1234-5678",
        )
        self.places = places

    def nvmlDeviceGetMigDeviceHandleByIndex(self, _card: str, place: int) -> str:  # noqa: N802
        if place not in self.places:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return f"slice {place}"

    def nvmlDeviceGetHandleByUUID(self, wanted: str) -> str:  # noqa: N802
        if wanted == "MIG-1":
            return "slice by name"
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)


def handle_of(found: tuple[Card | None, str]) -> object:
    card, reason = found
    assert bool(reason) == (card is None)
    return card._handle if card else None


def test_a_slice_is_the_card() -> None:
    """On a divided card our slice is read: the first there is, as CUDA does, or the one named."""
    assert handle_of(find_card(DividedNvml(2, 3), "0")) == "slice 2"
    assert handle_of(find_card(DividedNvml(2), "MIG-1")) == "slice by name"
    assert handle_of(find_card(DividedNvml(divided=False), "0")) == "card"
    card, reason = find_card(DividedNvml(), "0")
    assert card is None
    assert "none of them is ours" in reason


def test_the_beginning_of_a_name_is_enough() -> None:
    """CUDA takes the beginning of a card's UUID, and so does the gauge; a wrong one is a reason."""
    assert handle_of(find_card(DividedNvml(), "GPU-1234")) == "card"
    assert find_card(DividedNvml(), "GPU-99")[1].endswith("not there: GPU-99")


def test_a_card_can_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gauge whose card was lost finds it again, and until then says why it has none."""
    card = FakeCard(12 * GIB)
    gauge = card.gauge()
    assert gauge.look_again() == ""
    card.refuse["nvmlDeviceGetMemoryInfo"] = pynvml.NVML_ERROR_GPU_IS_LOST
    found: list[tuple[Card | None, str]] = [
        (Card(card.nvml(), 0, HOST_SPACE), ""),
        (None, "not yet"),
    ]
    monkeypatch.setattr("pipeline.core.gauge.open_card", found.pop)
    assert gauge.look_again() == "not yet"
    assert gauge.reading(0.0).total is None
    card.refuse.clear()
    assert gauge.look_again() == ""
    assert gauge.reading(0.0).total == 12 * GIB


def test_a_screen_needs_room() -> None:
    """The reserve is larger where a screen is lit by the card."""
    card = FakeCard(12 * GIB)
    bare = card.gauge().reserve()
    card.refuse["nvmlDeviceGetDisplayActive"] = pynvml.NVML_ERROR_NO_PERMISSION
    assert card.gauge().reserve() == bare
    lit = Card(SmallNvml(nvmlDeviceGetDisplayActive=1), None, HOST_SPACE)
    assert Gauge(gpu=True, card=lit).reserve() == 1_500_000_000


@pytest.mark.gpu
def test_a_real_reading_is_complete() -> None:
    """On a machine with a card the sizes of card and host are known, and the gaps are named."""
    gauge = Gauge(gpu=True)
    reading = gauge.reading(0.0)
    assert reading.total
    assert reading.free
    assert reading.own is not None
    assert reading.gpu_percent is not None or "use" in gauge.gaps()
