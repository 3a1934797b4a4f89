"""The status as people read it in a terminal: one rich renderable from one status document."""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from daemon.cli.common import moment
from daemon.tell.status import RecentJob, Status
from pipeline.core.text import human_bytes, human_seconds

BAR_CELLS = 24
QUEUED_LINES = 10
RECENT_LINES = 10
STATES = {
    "ready": "bold green", "paused": "bold yellow", "starting": "bold cyan",
    "degraded": "bold red", "draining": "bold yellow", "stopped": "bold red",
}  # fmt: skip
ENDS = {"done": "green", "failed": "red"}


def page(status: Status, trouble: str, now: float) -> RenderableType:
    """Everything that a person asks first; `trouble` says why it may be out of date."""
    parts: list[RenderableType] = [_head(status, trouble, now)]
    parts += [Text(f"problem: {text}", style="red") for text in status.problems]
    parts += _part("watches", _watches(status, now))
    if not trouble:
        parts += _part("running", _running(status))
    parts += _part(_queue_line(status), _queued(status))
    parts += _part("recent", _recent(status, now))
    parts += _part("worker", _worker(status))
    parts += _part("disks", _disks(status))
    return Group(*parts)


def _part(title: str, body: RenderableType | None) -> list[RenderableType]:
    if body is None:
        return []
    return [Text(""), Text(title, style="bold"), Padding(body, (0, 0, 0, 2), expand=False)]


def _head(status: Status, trouble: str, now: float) -> Text:
    line = Text()
    if trouble:
        line.append(trouble, style="bold red")
        line.append("\nwhat follows is what it said last\n", style="red")
    line.append(f"penstock {status.version}  ")
    line.append(status.state, style=STATES.get(status.state, ""))
    if not trouble:
        line.append(f"  pid {status.pid}, up {human_seconds(max(0.0, now - status.started_at))}")
    if status.rss:
        line.append(f", {human_bytes(status.rss)}")
    said = ", ".join(f"{count} {state}" for state, count in status.counts.items() if count)
    if said:
        line.append(f"\njobs: {said}")
    return line


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    return table


def _watches(status: Status, now: float) -> Table:
    table = _table("name", "recipe", "state", "files", "settling", "waiting", "last look", "folder")
    for watch in status.watches:
        state = Text(f"{watch.mode or 'online'}{'' if watch.local else ', share'}", style="green")
        if not watch.online:
            state = Text(f"offline: {watch.reason}", style="red")
        table.add_row(
            watch.name, watch.recipe, state, str(watch.files), str(watch.waiting),
            str(watch.settled_waiting), moment(watch.last_scan_at, now), Text(watch.path),
        )  # fmt: skip
    return table


def _running(status: Status) -> RenderableType | None:
    if not status.running:
        return None
    table = _table("job", "file", "stage", "", "", "for", "to go")
    for job in status.running:
        share = job.overall
        bar = ProgressBar(
            total=1.0,
            completed=share or 0.0,
            width=BAR_CELLS,
            pulse=share is None,
            complete_style="cyan",
        )
        table.add_row(
            f"{job.job:06d}",
            Text(job.file),
            f"{job.stage or 'starting'}{'' if job.attempt == 1 else f' (try {job.attempt})'}",
            bar,
            "" if share is None else f"{share:4.0%}",
            human_seconds(job.seconds),
            "" if job.eta_seconds is None else human_seconds(job.eta_seconds),
        )
    return table


def _queue_line(status: Status) -> str:
    queue = status.queue
    parts = [f"queue: {queue.queued} waiting, {queue.running} running, room for {queue.size}"]
    if queue.waiting_outside:
        parts.append(f"{queue.waiting_outside} wait outside")
    if queue.oldest_seconds is not None:
        parts.append(f"oldest for {human_seconds(queue.oldest_seconds)}")
    return ", ".join(parts)


def _queued(status: Status) -> RenderableType:
    parts: list[RenderableType] = []
    if status.queue.held:
        parts.append(Text(f"held: {status.queue.held}", style="yellow"))
    if status.queued:
        table = _table("place", "job", "watch", "file")
        for job in status.queued[:QUEUED_LINES]:
            table.add_row(str(job.position), f"{job.job:06d}", job.watch, Text(job.file))
        parts.append(table)
    left = status.queue.queued - QUEUED_LINES
    if left > 0:
        parts.append(Text(f"and {left} more: penstock jobs --state queued", style="dim"))
    return Group(*parts)


def _recent(status: Status, now: float) -> RenderableType | None:
    if not status.recent:
        return None
    table = _table("job", "state", "when", "took", "file", "")
    for job in status.recent[:RECENT_LINES]:
        table.add_row(
            f"{job.job:06d}", Text(job.state, style=ENDS.get(job.state, "yellow")),
            moment(job.ended_at, now), human_seconds(job.seconds) if job.seconds else "",
            Text(job.file), _outcome(job),
        )  # fmt: skip
    return table


def _outcome(job: RecentJob) -> Text:
    if job.result:
        return Text(f"→ {job.result}")
    return Text(job.reason, style=ENDS.get(job.state, ""))


def _worker(status: Status) -> Text:
    worker, usage = status.worker, status.worker.usage
    parts = [worker.state or "off", f"device {worker.device}"]
    if worker.pid:
        parts.append(f"pid {worker.pid}")
    if usage.rss is not None:
        free = "" if usage.ram_free is None else f" ({human_bytes(usage.ram_free)} free)"
        parts.append(f"RAM {human_bytes(usage.rss)}{free}")
    if usage.vram is not None or usage.vram_free is not None:
        held = "?" if usage.vram is None else human_bytes(usage.vram)
        free = "" if usage.vram_free is None else f" ({human_bytes(usage.vram_free)} free)"
        parts.append(f"card {held}{free}")
    if usage.gpu is not None:
        parts.append(f"card {usage.gpu} % busy")
    if worker.restarts:
        parts.append(f"{worker.restarts} unwanted ends, the last: {worker.last_exit}")
    return Text(", ".join(parts))


def _disks(status: Status) -> RenderableType | None:
    if not status.disks:
        return None
    lines = Text()
    for number, disk in enumerate(status.disks):
        free = "unknown" if disk.free_bytes is None else human_bytes(disk.free_bytes)
        text = f"{free} free  {disk.path}"
        lines.append(("\n" if number else "") + text, style="bold red" if disk.low else "")
    return lines
