"""One NVIDIA card through NVML; what the driver does not tell is None, and is named in `gaps`."""

import os
from collections.abc import Callable, Collection, Iterable
from typing import Any

import msgspec

from pipeline.core.processes import ours_among, own_space, total, under_wsl

# Cards that have no memory of their own. NVML may say "not supported" there, or give the host's
# figures, with the page cache counted as used.
INTEGRATED = ("gb10", "orin", "thor", "xavier", "tegra", "jetson")
NOT_SUPPORTED = 3
LOST = (15, 16, 28)  # the card is lost, needs a reset, or is no longer found
NO_SAMPLES = (0, 6)  # nothing ran lately: NVML calls it "not found", the wrapper "success"


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver says at one moment; the fields are those of Reading."""

    total: int | None = None
    free: int | None = None
    own: int | None = None
    listed: bool | None = None
    others: int | None = None
    gpu_percent: int | None = None
    own_percent: int | None = None
    encoder_sessions: int | None = None
    own_sessions: int | None = None


class Card:
    """One card, or one slice of one (MIG).

    `gaps` says in plain words what the driver refused at the last look: {"free memory": "…"}.
    """

    def __init__(self, nvml: Any, handle: Any, space: str | None = None) -> None:
        """`space` is the namespace of our process numbers; None finds it out."""
        self._nvml = nvml
        self._handle = handle
        self._space = space if space is not None else "" if under_wsl() else own_space()
        self._seen = 0  # the driver's stamp of the newest sample of use, in microseconds
        self._codes: dict[str, int | None] = {}
        self.gaps: dict[str, str] = {}

    def name(self) -> str | None:
        """What the maker calls it."""
        return _text(self._asked("name", self._nvml.nvmlDeviceGetName, self._handle))

    def driver(self) -> str | None:
        """The version of the driver."""
        return _text(self._asked("driver", self._nvml.nvmlSystemGetDriverVersion))

    def memory(self) -> tuple[int | None, int | None]:
        """Bytes of the card in all, and bytes that nobody holds."""
        memory = self._asked("free memory", self._nvml.nvmlDeviceGetMemoryInfo, self._handle)
        if memory is None:
            return None, None
        if not memory.total:
            self.gaps["free memory"] = "the driver says that the card has no memory at all"
            return None, None
        return int(memory.total), max(0, min(int(memory.free), int(memory.total)))

    def free(self) -> int | None:
        """Bytes of the card that nobody holds."""
        return self.memory()[1]

    def utilisation(self) -> int | None:
        """How busy the card was lately, 0 to 100, whoever used it."""
        rates = self._asked("use", self._nvml.nvmlDeviceGetUtilizationRates, self._handle)
        return None if rates is None else int(rates.gpu)

    def used_by(self, pids: Collection[int]) -> int | None:
        """Bytes of the card that these processes hold; None if the driver does not tell."""
        held = self._held()
        ours = None if held is None else ours_among(held, pids, self._space)
        return None if held is None or ours is None else _sum_of(held, ours)

    def look(self, pids: Collection[int]) -> Look:
        """Everything at once; `pids` are our processes, by our own numbers."""
        size, free = self.memory()
        held = self._held()
        ours = None if held is None else ours_among(held, pids, self._space)
        sessions = self._sessions()
        self.gaps.pop("our processes", None)
        if held is None or ours is None:
            self.gaps["our processes"] = self.gaps.get("processes", "they have other numbers here")
        return Look(
            total=size,
            free=free,
            own=None if held is None or ours is None else _sum_of(held, ours),
            listed=None if ours is None else bool(ours),
            others=None if held is None or ours is None else len(held.keys() - ours),
            gpu_percent=self.utilisation(),
            own_percent=self._percent_of(ours),
            encoder_sessions=None if sessions is None else len(sessions),
            own_sessions=self._ours_of(sessions, pids),
        )

    def unified(self) -> bool:
        """Whether the card uses the host's memory."""
        name = (self.name() or "").lower()
        if any(word in name for word in INTEGRATED):
            return True
        return self.memory() == (None, None) and self._codes.get("free memory") == NOT_SUPPORTED

    def display(self) -> bool | None:
        """Whether a screen is lit by this card."""
        active = self._asked("screen", self._nvml.nvmlDeviceGetDisplayActive, self._handle)
        return None if active is None else bool(active)

    def lost(self) -> bool:
        """Whether the driver has lost the card: nothing on it works until it comes back."""
        self.memory()
        return self._codes.get("free memory") in LOST

    def close(self) -> None:
        """End the talk with the driver, so that the next one starts from what is there then."""
        self._asked("end", self._nvml.nvmlShutdown)

    def _held(self) -> dict[int, int | None] | None:
        """Bytes per process in the driver's list; a process may stand there without a figure."""
        lists = [
            self._asked("processes", ask, self._handle)
            for ask in (
                self._nvml.nvmlDeviceGetGraphicsRunningProcesses,
                self._nvml.nvmlDeviceGetComputeRunningProcesses,
            )
        ]
        if all(entries is None for entries in lists):
            return None
        self.gaps.pop("processes", None)  # one of the two kinds is enough
        entries = (entry for entries in lists for entry in entries or ())
        return {entry.pid: entry.usedGpuMemory for entry in entries}  # it may stand in both

    def _percent_of(self, ours: Collection[int] | None) -> int | None:
        if ours is None:
            return None
        ask = self._nvml.nvmlDeviceGetProcessUtilization
        samples = self._asked("use by process", ask, self._handle, self._seen)
        if samples is None:
            if self._codes.get("use by process") not in NO_SAMPLES:
                return None
            self.gaps.pop("use by process", None)
            return 0
        self._seen = max((int(sample.timeStamp) for sample in samples), default=self._seen)
        uses = (int(sample.smUtil) for sample in samples if sample.pid in ours)
        return max((use for use in uses if use <= 100), default=0)  # some drivers give nonsense

    def _sessions(self) -> list[int] | None:
        ask = self._nvml.nvmlDeviceGetEncoderSessions
        sessions = self._asked("encoder sessions", ask, self._handle)
        return None if sessions is None else [int(session.pid) for session in sessions]

    def _ours_of(self, sessions: list[int] | None, pids: Collection[int]) -> int | None:
        if not sessions:
            return None if sessions is None else 0
        ours = ours_among(set(sessions), pids, self._space)
        return None if ours is None else sum(pid in ours for pid in sessions)

    def _asked(self, what: str, question: Callable[..., Any], *args: Any) -> Any:
        self.gaps.pop(what, None)
        self._codes.pop(what, None)
        try:
            return question(*args)
        except (self._nvml.NVMLError, UnicodeDecodeError) as error:
            self._codes[what] = getattr(error, "value", None)
            self.gaps[what] = str(error)
            return None


def _sum_of(held: dict[int, int | None], ours: Iterable[int]) -> int | None:
    sizes = [held[pid] for pid in ours]
    if any(size is None for size in sizes):
        return None  # the driver does not tell (Windows, WSL)
    return total(sizes) or 0


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
    return find_card(nvml, wanted)


def find_card(nvml: Any, wanted: str) -> tuple[Card | None, str]:
    """The card of that index or UUID (of a card or of a MIG slice); or why there is none."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return None, why(error.value, str(error), wanted)
    reason = ""
    try:
        handle = _handle_of(nvml, wanted)
    except nvml.NVMLError as error:
        handle, reason = None, why(error.value, str(error), wanted)
    if handle is None:
        nvml.nvmlShutdown()  # else a later try would be shown the same old picture
        return None, reason or "the card is divided into slices (MIG), and none of them is ours"
    return Card(nvml, handle), ""


def _handle_of(nvml: Any, wanted: str) -> Any:
    if wanted.isdigit():
        return _slice_of(nvml, nvml.nvmlDeviceGetHandleByIndex(int(wanted)))
    return _by_uuid(nvml, wanted)


def _by_uuid(nvml: Any, wanted: str) -> Any:
    try:
        return nvml.nvmlDeviceGetHandleByUUID(wanted)
    except nvml.NVMLError:
        # CUDA also takes the beginning of a UUID, if it fits one card only.
        cards = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        fitting = [
            one for one in cards if (_text(nvml.nvmlDeviceGetUUID(one)) or "").startswith(wanted)
        ]
        if len(fitting) != 1:
            raise
        return fitting[0]


def _slice_of(nvml: Any, handle: Any) -> Any:
    """The slice that CUDA takes of a divided card: the first; the card itself if it is whole."""
    try:
        divided, _after_reset = nvml.nvmlDeviceGetMigMode(handle)
        if not divided:
            return handle
        count = nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except nvml.NVMLError:  # most cards can not be divided
        return handle
    for index in range(count):
        try:
            return nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError:  # this place is empty, or somebody else's
            continue
    return None


# Return codes of NVML that people meet, from nvml.h.
_REASONS = {
    2: "CUDA_VISIBLE_DEVICES names a card that is not there: {wanted}",
    4: "this user may not open the NVIDIA devices",
    6: "CUDA_VISIBLE_DEVICES names a card that is not there: {wanted}",
    9: "the NVIDIA driver is not loaded",
    12: "the NVIDIA driver is not installed (libnvidia-ml.so.1 is missing)",
    15: "the card has fallen off the bus; the machine needs a restart",
    16: "the card needs a reset; restart the machine",
    18: "the NVIDIA driver was updated; the machine needs a restart",
}


def why(code: int, text: str, wanted: str) -> str:
    """An NVML error in plain words."""
    reason = _REASONS.get(code)
    return f"NVML says: {text}" if reason is None else reason.format(wanted=wanted)


def _text(value: str | bytes | None) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
