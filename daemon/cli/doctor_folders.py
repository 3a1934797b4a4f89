"""Doctor's look at the config's folders: rights, disks, mounts, events, the publishing rename."""

import os
import shutil
import time
from collections.abc import Iterator

from daemon.cli.findings import Finding, ok, problem, warning
from daemon.intake.mounts import find_place, is_network
from daemon.lock import holder
from daemon.publish.steps import SHELF
from daemon.settings import Settings, WatchSettings
from pipeline.core.errors import ConfigError, Transient
from pipeline.core.files import free_bytes, rename_new
from pipeline.core.text import human_bytes, shown

COUNT_S = 5.0  # of counting folders; a huge tree is counted as far as that goes
INOTIFY = "/proc/sys/fs/inotify/max_user_{}"
WALKABLE = os.R_OK | os.W_OK | os.X_OK
RIGHTS = "give the service's user the right to read and write it"


def state(settings: Settings) -> Iterator[Finding]:
    """The state folder: there, local, and who holds it."""
    folder = settings.daemon.state_dir
    finding = _usable("state", "the state folder", folder)
    if finding is not None:
        yield finding
    if is_network(folder):
        yield problem(
            "state", f"{shown(folder)} lies on a network share, where a ledger can be damaged",
            "choose a folder on a local disk as [daemon] state_dir",
        )  # fmt: skip
    try:
        who = holder(folder)
    except ConfigError as error:
        yield problem("state", error.reason, error.hint)
        return
    if who is None:
        yield ok("state", f"{shown(folder)}: local, no daemon is running on it")
    else:
        about = f"pid {who.get('pid', '?')} since {shown(str(who.get('started', '?')))}"
        yield ok("state", f"{shown(folder)}: local, held by the daemon {about}")


def watches(settings: Settings) -> Iterator[Finding]:
    """Each watch's folders."""
    for watch in settings.watch:
        area = watch.name
        yield from _inbox(area, watch)
        stores = {"outbox": watch.outbox, "archive": watch.archive, "failed": watch.failed}
        for role, folder in stores.items():
            if not folder:
                continue
            finding = _usable(area, f"its {role} folder", folder)
            if finding is not None:
                yield finding
            elif role == "outbox":
                yield _publishes(area, folder)
            else:
                yield _store(area, role, folder, watch.path)


def _usable(area: str, what: str, folder: bytes) -> Finding | None:
    """What is wrong with a folder; None if it can be used."""
    if not os.path.lexists(folder):
        return _missing(area, what, folder)
    if not os.path.isdir(folder):
        return problem(area, f"{what} {shown(folder)} is no folder", "move away what is there")
    if not os.access(folder, WALKABLE):
        return problem(area, f"{what} {shown(folder)} can not be read and written", RIGHTS)
    return None


def _missing(area: str, what: str, folder: bytes) -> Finding:
    above = _nearest(folder)
    if os.access(above, WALKABLE):
        return ok(area, f"{what} {shown(folder)} is not there yet; the daemon makes it")
    return problem(
        area, f"{what} {shown(folder)} is not there, and {shown(above)} can not be written",
        "make it and give it to the service's user",
    )  # fmt: skip


def _nearest(folder: bytes) -> bytes:
    """The folder itself or the nearest one above it that is there."""
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return folder


def _inbox(area: str, watch: WatchSettings) -> Iterator[Finding]:
    finding = None if watch.require_mount else _usable(area, "the watched folder", watch.path)
    if finding is not None:
        yield finding
        return
    try:
        place = find_place(watch.path, require_mount=watch.require_mount)
    except Transient as error:
        yield problem(area, f"offline: {error.reason}", error.hint)
        return
    where = f"{place.mount.fstype} mounted at {shown(place.mount.point)}"
    how = "found by events and scans" if place.local else "found by scans only (a share)"
    yield ok(area, f"{shown(watch.path)}: {where}; files are {how}")


def _publishes(area: str, outbox: bytes) -> Finding:
    """Try the one rename that makes a result appear, with an empty folder."""
    shelf = os.path.join(outbox, SHELF)
    staged = os.path.join(shelf, b"doctor-%d" % os.getpid())
    target = os.path.join(outbox, b".penstock-doctor-%d" % os.getpid())
    made = not os.path.isdir(shelf)
    try:
        os.makedirs(staged)
        rename_new(staged, target)
    except OSError as error:
        return problem(
            area, f"a result can not be renamed into {shown(outbox)}: {error.strerror}",
            "the outbox and its hidden .penstock folder must be on one disk that takes renames",
        )  # fmt: skip
    finally:
        for folder in (staged, target):
            shutil.rmtree(folder, ignore_errors=True)
        if made and os.path.isdir(shelf) and not os.listdir(shelf):
            os.rmdir(shelf)
    return ok(area, f"outbox {shown(outbox)}: results are published by one rename")


def _store(area: str, role: str, folder: bytes, inbox: bytes) -> Finding:
    try:
        together = os.stat(folder).st_dev == os.stat(inbox).st_dev
    except OSError:
        together = True  # the watched folder's own finding says what is wrong
    how = "by a rename" if together else "by a verified copy: it lies on another disk"
    return ok(area, f"{role} {shown(folder)}: originals go there {how}")


def events(settings: Settings) -> Iterator[Finding]:
    """Whether the kernel's limits allow an event for every watched folder."""
    allowed, instances = _limit("watches"), _limit("instances")
    if allowed is None or instances is None:
        yield warning("events", "this kernel has no inotify", "nothing to do: scans find files")
        return
    local = [watch.path for watch in settings.watch if _is_local(watch.path)]
    wanted, whole = _folders(local)
    at_least = "" if whole else "at least "
    text = f"{at_least}{wanted} folders of {allowed} that one user may watch"
    if instances < 1 or wanted > allowed * 0.8:
        yield warning(
            "events", text,
            "raise fs.inotify.max_user_watches (sysctl); until then scans find what events miss",
        )  # fmt: skip
        return
    yield ok("events", f"{text}; {instances} inotify instances for each user")


def _limit(name: str) -> int | None:
    try:
        with open(INOTIFY.format(name)) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def _is_local(folder: bytes) -> bool:
    try:
        return find_place(folder).local
    except Transient:
        return False


def _folders(roots: list[bytes]) -> tuple[int, bool]:
    """How many folders there are in all, and whether the time sufficed to count them."""
    end = time.monotonic() + COUNT_S
    found = 0
    for root in roots:
        for _folder in os.walk(root):
            found += 1
            if time.monotonic() > end:
                return found, False
    return found, True


def disks(settings: Settings) -> Iterator[Finding]:
    """Free room against the limits of [queue]."""
    queue = settings.queue
    folders = {settings.daemon.state_dir, *(watch.outbox for watch in settings.watch)}
    seen: dict[int, bytes] = {}
    for folder in sorted(folders):
        here = _nearest(folder)
        seen.setdefault(os.stat(here).st_dev, here)
    for folder in seen.values():
        free = free_bytes(folder)
        text = f"{human_bytes(free)} free on the disk of {shown(folder)}"
        if free < queue.disk_stop_gb * 1e9:
            yield problem(
                "disk", f"{text}: no job is started below {queue.disk_stop_gb:g} GB",
                "free some space, or lower [queue] disk_stop_gb",
            )  # fmt: skip
        elif free < queue.disk_low_gb * 1e9:
            yield warning(
                "disk", f"{text}: no new file is taken below {queue.disk_low_gb:g} GB",
                "free some space, or lower [queue] disk_low_gb",
            )  # fmt: skip
        else:
            yield ok("disk", f"{text} (limits {queue.disk_low_gb:g} and {queue.disk_stop_gb:g} GB)")
