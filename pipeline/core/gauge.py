"""What memory and the card look like right now: this process tree, host RAM, NVML.

Every figure is None where it can not be known, and reading never raises: a container, a card
without NVML or an old kernel leaves gaps, not errors.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

import psutil

from pipeline.core.contract import Usage
from pipeline.core.host_memory import limits_of, ram_free, read_text

PAGE = os.sysconf("SC_PAGE_SIZE")


class Gauge:
    """Reads this process, its children, the host and, if asked to, the card it was given.

    With `gpu=False` NVML is never touched.
    """

    def __init__(self, gpu: bool) -> None:
        self._limits = limits_of()
        self._card: Card | None = None
        self.why_no_gpu = "the card is not asked for"  # in plain words; empty if NVML works
        if gpu:
            self._card, self.why_no_gpu = open_card()

    def read(self) -> Usage:
        """One reading, cheap enough for every second."""
        pids = process_tree()
        card = self._card
        return Usage(
            rss=total(resident(pid) for pid in pids),
            ram_free=ram_free(self._limits),
            vram=card.used_by(pids) if card else None,
            vram_free=card.free() if card else None,
            gpu=card.utilisation() if card else None,
        )

    def gpu_name(self) -> str | None:
        """The card's name, e.g. `NVIDIA GeForce RTX 3060`."""
        return self._card.name() if self._card else None

    def driver(self) -> str | None:
        """The driver's version, e.g. `580.95.05`."""
        return self._card.driver() if self._card else None


def resident(pid: int | None = None) -> int | None:
    """Bytes of RAM that one process holds (this one if None); None if it is gone."""
    fields = (read_text(f"/proc/{os.getpid() if pid is None else pid}/statm") or "").split()
    return int(fields[1]) * PAGE if len(fields) > 1 else None


def process_tree() -> set[int]:
    """This process and everything below it."""
    found = {os.getpid()}
    new = set(found)
    while new:
        below = {child for pid in new for child in _children(pid)}
        new = below - found
        found |= new
    return found


def _children(pid: int) -> Iterable[int]:
    # The kernel's own list costs microseconds; psutil looks at every process of the host.
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        lists = [read_text(f"/proc/{pid}/task/{task}/children") for task in tasks]
        if any(text is not None for text in lists):
            return [int(child) for text in lists for child in (text or "").split()]
        return [child.pid for child in psutil.Process(pid).children()]
    except (OSError, psutil.Error):  # it ended meanwhile
        return []


def total(values: Iterable[int | None]) -> int | None:
    """The sum of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


class Card:
    """One card through NVML; what the driver does not tell is None."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle

    def name(self) -> str | None:
        """What the maker calls it."""
        return _text(self._asked(self._nvml.nvmlDeviceGetName, self._handle))

    def driver(self) -> str | None:
        """The version of the driver."""
        return _text(self._asked(self._nvml.nvmlSystemGetDriverVersion))

    def free(self) -> int | None:
        """Bytes of the card that nobody holds."""
        memory = self._asked(self._nvml.nvmlDeviceGetMemoryInfo, self._handle)
        return None if memory is None else int(memory.free)

    def utilisation(self) -> int | None:
        """How busy the card was lately, 0 to 100, whoever used it."""
        rates = self._asked(self._nvml.nvmlDeviceGetUtilizationRates, self._handle)
        return None if rates is None else int(rates.gpu)

    def used_by(self, pids: set[int]) -> int | None:
        """Bytes of the card that these processes hold."""
        lists = [
            self._asked(self._nvml.nvmlDeviceGetComputeRunningProcesses, self._handle),
            self._asked(self._nvml.nvmlDeviceGetGraphicsRunningProcesses, self._handle),
        ]
        if all(entries is None for entries in lists):
            return None
        held: dict[int, int | None] = {}
        for entry in (entry for entries in lists for entry in entries or ()):
            held[entry.pid] = entry.usedGpuMemory  # a process may stand in both lists
        return share_of(held, pids, psutil.pid_exists)

    def _asked(self, question: Callable[..., Any], *args: Any) -> Any:
        try:
            return question(*args)
        except self._nvml.NVMLError:  # not supported here, not permitted, or the card fell off
            return None


def share_of(
    held: dict[int, int | None], pids: set[int], exists: Callable[[int], bool]
) -> int | None:
    """What `pids` hold of a card, from the driver's list of processes; None if it can not be told.

    In a container the list has the host's numbers: then some of them do not exist here, and not to
    be in the list does not mean to hold nothing.
    """
    ours = [size for pid, size in held.items() if pid in pids]
    if not ours:
        return 0 if all(exists(pid) for pid in held) else None
    return None if any(size is None for size in ours) else total(ours)


def open_card() -> tuple[Card | None, str]:
    """The card that this process was given, or the plain reason why there is none to see."""
    try:
        import pynvml as nvml
    except ImportError:
        return None, "the package nvidia-ml-py is not installed"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = "0" if visible is None else visible.split(",")[0].strip()
    if wanted in ("", "-1", "NoDevFiles"):
        return None, "CUDA_VISIBLE_DEVICES hides every card"
    try:
        nvml.nvmlInit()
        if nvml.nvmlDeviceGetCount() == 0:
            return None, "the NVIDIA driver sees no card"
        if wanted.isdigit():
            return Card(nvml, nvml.nvmlDeviceGetHandleByIndex(int(wanted))), ""
        return Card(nvml, nvml.nvmlDeviceGetHandleByUUID(wanted)), ""
    except nvml.NVMLError as error:
        return None, why(error.value, str(error), wanted)


# Return codes of NVML that people meet, from nvml.h.
_REASONS = {
    2: "CUDA_VISIBLE_DEVICES names a card that is not there: {wanted}",
    4: "this user may not open the NVIDIA devices",
    6: "CUDA_VISIBLE_DEVICES names a card that is not there: {wanted}",
    9: "the NVIDIA driver is not loaded",
    12: "the NVIDIA driver is not installed (libnvidia-ml.so.1 is missing)",
    15: "the card has fallen off the bus; the machine needs a restart",
    18: "the NVIDIA driver was updated; the machine needs a restart",
}


def why(code: int, text: str, wanted: str) -> str:
    """An NVML error in plain words."""
    reason = _REASONS.get(code)
    return f"NVML says: {text}" if reason is None else reason.format(wanted=wanted)


def _text(value: str | bytes | None) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
