"""The settings as frozen slices, one for each consumer; daemon/config.py reads them from TOML."""

from typing import Annotated, Any, Literal

import msgspec

from pipeline.core.memory_settings import MemorySettings

# Upper limits keep every value inside what timers, SQLite and arithmetic can take.
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000_000)]
NotNegative = Annotated[float, msgspec.Meta(ge=0.0, le=1_000_000.0)]
Above = Annotated[float, msgspec.Meta(gt=0.0, le=1_000_000.0)]
Hours = Annotated[float, msgspec.Meta(gt=0.0, le=500.0)]
Priority = Annotated[int, msgspec.Meta(ge=-1000, le=1000)]
WatchName = Annotated[
    str,
    msgspec.Meta(pattern=r"^[a-z0-9_-]{1,64}$", description='1 to 64 of "a-z", "0-9", "-" and "_"'),
]
Folder = bytes  # absolute; in the file a string, relative to the config file's folder


class DaemonSettings(msgspec.Struct, frozen=True, kw_only=True):
    """[daemon]: where the service keeps its own things and how it speaks."""

    state_dir: Folder = b"state"  # ledger, scratch, learned memory; a local disk
    log_dir: Folder = b"logs"  # file_monitor.jsonl
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_bytes: Count = 10_000_000  # file_monitor.jsonl is rotated at this size
    log_keep: Count = 5  # rotated logs kept
    status_seconds: Above = 2.0  # how often status.json is written
    stop_seconds: Above = 90.0  # how long a running job may finish after SIGTERM


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True):
    """[queue]: the bounded window of admitted jobs, retries and the disk guard."""

    size: Count = 64  # jobs admitted at once; beyond it files wait where they lie
    attempts: Count = 3  # orders for one file before it fails for good
    retry_seconds: NotNegative = 30.0  # first wait after a passing error; doubles each time
    disk_low_gb: NotNegative = 5.0  # below it nothing new is admitted
    disk_stop_gb: NotNegative = 1.0  # below it no queued job is started either


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """[worker]: the one process that owns the card."""

    lanes: Annotated[int, msgspec.Meta(ge=1, le=16)] = 2  # jobs at once; gpu stages take turns
    time_limit_hours: Hours = 2.0  # for one file
    hang_seconds: Above = 900.0  # without a step forward
    silent_seconds: Above = 60.0  # without any sign of life
    python: str = ""  # another interpreter for the worker; empty: the daemon's own


class GpuSettings(msgspec.Struct, frozen=True, kw_only=True):
    """[gpu]: which device the worker uses."""

    device: Literal["auto", "cpu", "cuda"] = "auto"


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """[models]: where weights lie and whether they may be fetched."""

    dir: Folder = b"models"
    offline: bool = False  # true: never try to fetch weights


class WatchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """[[watch]]: one watched folder and what it promises."""

    name: WatchName  # in logs, labels and commands
    path: Folder
    recipe: str
    outbox: Folder
    archive: Folder = b""  # needed if after = "archive"
    failed: Folder = b""  # empty (penstock process): a failed original stays where it is
    after: Literal["archive", "keep", "delete"] = "archive"
    settle_seconds: NotNegative = 5.0  # quiet for at least this long
    incomplete_seconds: NotNegative = 120.0  # quiet, but its container says that bytes are missing
    scan_seconds: NotNegative = 0.0  # 0: 60 on local disks, 5 on shares
    priority: Priority = 0  # higher first
    receipts: bool = True  # NAME.penstock.json beside the drop while it waits and runs
    require_mount: bool = False  # path must be a mount of its own, else it is offline
    options: dict[str, Any] = {}
    only: frozenset[bytes] | None = None  # penstock process: these names and no others


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that config.toml says."""

    daemon: DaemonSettings = DaemonSettings()
    queue: QueueSettings = QueueSettings()
    worker: WorkerSettings = WorkerSettings()
    gpu: GpuSettings = GpuSettings()
    memory: MemorySettings = MemorySettings()
    models: ModelSettings = ModelSettings()
    recipes: dict[str, dict[str, Any]] = {}  # [recipes.NAME]: options for every watch of it
    watch: tuple[WatchSettings, ...] = ()

    def watch_named(self, name: str) -> WatchSettings | None:
        """The watch of that name, if the config still has it."""
        return next((watch for watch in self.watch if watch.name == name), None)
