"""Watchers at work: real folders, real threads, real events."""

import errno
import logging
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from daemon.intake import bell as bell_module
from daemon.intake import watch as watch_module
from daemon.intake.bell import Bell, inotify_watches
from daemon.intake.findings import Event, Offline, Online, Probed, Scanned
from daemon.intake.lease import Writer
from daemon.intake.mounts import Place
from daemon.intake.watch import Watcher
from daemon.settings import WatchSettings

TAKES = frozenset({b".wav"})
PATIENCE = 20.0  # seconds; only a failing test waits for so long
Kind = TypeVar("Kind", bound=Event)


class House:
    """A watcher, what it posts, and its end."""

    def __init__(
        self, root: bytes, bell: Bell | None = None, pin: str = "", **more: object
    ) -> None:
        self.root = root
        self.events: queue.Queue[Event] = queue.Queue()
        settings = WatchSettings(
            name="talks",
            path=root,
            recipe="transcribe",
            outbox=b"/out",
            **more,  # type: ignore[arg-type]
        )
        self.watcher = Watcher(settings, TAKES, self.events.put, pin=pin, bell=bell)
        self.watcher.start()

    def next(self, kind: type[Kind]) -> Kind:
        """The next event, which must be of this kind."""
        event = self.events.get(timeout=PATIENCE)
        assert isinstance(event, kind), event
        return event

    def wait(self, kind: type[Kind], fits: Callable[[Kind], object]) -> Kind:
        """The next event of this kind that fits; others before it are dropped."""
        while True:
            event = self.events.get(timeout=PATIENCE)
            if isinstance(event, kind) and fits(event):
                return event

    def scan(self) -> Scanned:
        """Ask for a scan and return what it says."""
        self.watcher.look()
        return self.next(Scanned)

    def put(self, name: bytes, data: bytes = b"x") -> bytes:
        path = os.path.join(self.root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def seen(self, count: int) -> set[bytes]:
        """The names of the next so many changed files, over as many scans as it takes."""
        names: set[bytes] = set()
        while len(names) < count:
            names |= changed(self.wait(Scanned, lambda scanned: scanned.changed))
        return names


def changed(scanned: Scanned) -> set[bytes]:
    return {sighting.name for sighting in scanned.changed}


Start = Callable[..., House]


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rest between scans, so that tests are quick."""
    monkeypatch.setattr(watch_module, "LEAST_GAP", 0.01)
    monkeypatch.setattr(watch_module, "REST_FACTOR", 0.0)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts watchers and ends them, with their bell, after the test."""
    houses: list[House] = []
    bells: list[Bell] = []

    def begin(root: bytes, *, events: bool = False, **more: object) -> House:
        if events and not bells:
            bells.append(Bell())
        house = House(root, bells[0] if events else None, **more)  # type: ignore[arg-type]
        houses.append(house)
        return house

    yield begin
    for house in houses:
        assert house.watcher.stop(PATIENCE)
    for one in bells:
        one.stop()


def test_the_first_scan_reports_what_lies_there(room: bytes, start: Start) -> None:
    """Files that were there before the start are reported like new ones, with Online before."""
    for name in (b"a.wav", b"sub/b.wav", b"no.jpg"):
        os.makedirs(os.path.dirname(os.path.join(room, name)), exist_ok=True)
        with open(os.path.join(room, name), "wb"):
            pass
    house = start(room)
    online = house.next(Online)
    assert (online.local, online.mode) == (True, "scan")
    first = house.next(Scanned)
    assert first.first
    assert changed(first) == {b"a.wav", b"sub/b.wav"}
    assert (first.total, first.skipped, first.vanished) == (2, 1, ())
    second = house.scan()
    assert not second.first
    assert (second.changed, second.total) == ((), 2)


def test_only_what_changed_is_reported(room: bytes, start: Start) -> None:
    """A scan reports new, grown and replaced files, and those that vanished, each once."""
    house = start(room)
    house.next(Online)
    for name in (b"same.wav", b"grows.wav", b"goes.wav", b"swapped.wav"):
        house.put(name)
    house.seen(0)
    assert changed(house.wait(Scanned, lambda one: True)) == set()
    assert changed(house.scan()) == {b"same.wav", b"grows.wav", b"goes.wav", b"swapped.wav"}
    house.put(b"grows.wav", b"more")
    os.replace(house.put(b"other.xyz"), room + b"/swapped.wav")
    os.unlink(room + b"/goes.wav")
    after = house.scan()
    assert changed(after) == {b"grows.wav", b"swapped.wav"}
    assert after.vanished == (b"goes.wav",)
    assert (house.scan().changed, house.scan().vanished) == ((), ())


def test_what_we_moved_ourselves_is_not_reported(room: bytes, start: Start) -> None:
    """A forgotten name does not vanish, and is new if it comes back."""
    house = start(room)
    house.put(b"a.wav")
    house.seen(1)
    os.rename(room + b"/a.wav", room + b"/.a")
    house.watcher.forget([b"a.wav"])
    assert house.scan().vanished == ()
    os.rename(room + b"/.a", room + b"/a.wav")
    assert changed(house.scan()) == {b"a.wav"}


def test_files_in_an_unreadable_folder_have_not_vanished(
    room: bytes, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that can not be read hides its files; when it can, nothing is new and nothing gone."""
    house = start(room)
    house.put(b"sub/a.wav")
    house.put(b"b.wav")
    house.seen(2)
    real, refuse = os.open, threading.Event()

    def refusing(path: bytes, flags: int, *args: int, **more: int) -> int:
        if refuse.is_set() and os.fspath(path) == os.path.realpath(room) + b"/sub":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, flags, *args, **more)

    monkeypatch.setattr("daemon.intake.look.os.open", refusing)
    refuse.set()
    hidden = house.scan()
    assert (hidden.changed, hidden.vanished, hidden.total) == ((), (), 1)
    assert hidden.skips[0].name == b"sub"
    refuse.clear()
    back = house.scan()
    assert (back.changed, back.vanished, back.total) == ((), (), 2)


def test_probes_are_answered(room: bytes, start: Start) -> None:
    """Each name asked for is answered once, also one that is gone."""
    house = start(room)
    house.put(b"a.wav", b"RIFF")
    house.seen(1)
    house.watcher.probe([b"a.wav", b"gone.wav", b"a.wav"])
    first, second = house.next(Probed), house.next(Probed)
    assert (first.name, second.name) == (b"a.wav", b"gone.wav")
    assert first.probe.sighting is not None
    assert first.probe.writer is Writer.NONE
    assert first.probe.at > 0
    assert second.probe.sighting is None
    assert house.scan().total == 1


def test_only_watches_walk_nothing(room: bytes, start: Start) -> None:
    """A watch of given names sees these alone and needs no events."""
    with open(room + b"/a.wav", "wb"), open(room + b"/b.wav", "wb"):
        pass
    house = start(room, events=True, only=frozenset({b"a.wav"}))
    assert house.next(Online).mode == "scan"
    assert changed(house.next(Scanned)) == {b"a.wav"}


def test_a_missing_root_is_offline_and_comes_back(room: bytes, start: Start) -> None:
    """A removed root is said once and loses nothing; made anew, its files are what counts."""
    root = room + b"/inbox"
    os.mkdir(root)
    house = start(root)
    house.put(b"a.wav")
    house.put(b"b.wav")
    house.seen(2)
    os.rename(root, room + b"/away")
    house.watcher.look()
    assert "is not there" in house.next(Offline).reason
    house.watcher.probe([b"a.wav"])
    house.watcher.look()
    house.watcher.look()
    shutil.rmtree(room + b"/away/b.wav", ignore_errors=True)
    os.unlink(room + b"/away/b.wav")
    os.rename(room + b"/away", root)
    house.watcher.look()
    house.next(Online)
    back = house.next(Scanned)
    assert (back.changed, back.vanished) == ((), (b"b.wav",))
    assert house.next(Probed).probe.sighting is not None


def test_a_root_that_is_no_folder_is_offline(room: bytes, start: Start) -> None:
    """A file in the folder's place is explained."""
    with open(room + b"/file", "wb"):
        pass
    assert "is not a folder" in start(room + b"/file").next(Offline).reason


def test_a_share_that_is_not_mounted_is_offline(room: bytes, start: Start) -> None:
    """With require_mount, a plain folder is not looked into."""
    house = start(room, require_mount=True)
    assert "mount the share" in house.next(Offline).reason


def test_another_mount_than_remembered_is_offline(room: bytes, start: Start) -> None:
    """A folder pinned to a share in an earlier run is not trusted on another file system."""
    pin = f"nfs4 nas:/talks at {os.fsdecode(os.path.realpath(room))}"
    reason = start(room, pin=pin).next(Offline).reason
    assert "nas:/talks" in reason
    assert "mount it again" in reason


def test_a_scan_error_is_offline(
    room: bytes, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale handle is said in plain words, and the watch comes back by itself."""
    house = start(room)
    house.put(b"a.wav")
    house.seen(1)
    with monkeypatch.context() as patch:

        def stale(*_args: object, **_more: object) -> None:
            raise OSError(errno.ESTALE, "Stale file handle")

        patch.setattr(watch_module.look, "scan", stale)
        house.watcher.look()
        assert "Stale file handle" in house.next(Offline).reason
    house.watcher.look()
    house.next(Online)
    assert house.next(Scanned).vanished == ()


def test_a_folder_that_goes_away_during_the_scan_reports_nothing(
    room: bytes, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the place is another one after the walk, the walk's result is thrown away."""
    root = room + b"/inbox"
    os.mkdir(root)
    house = start(root)
    house.put(b"a.wav")
    house.seen(1)
    real = watch_module.find_place
    calls = 0

    def moving(path: bytes, **more: bool) -> Place:
        nonlocal calls
        calls += 1
        if calls == 1:  # as an unmount does: the walk sees the bare folder underneath
            place = real(path, **more)
            os.rename(root, room + b"/away")
            os.mkdir(root)
            return place
        if calls == 3:
            os.rmdir(root)
            os.rename(room + b"/away", root)
        return real(path, **more)

    monkeypatch.setattr(watch_module, "find_place", moving)
    house.watcher.look()
    after = house.next(Scanned)
    assert calls >= 4
    assert (after.changed, after.vanished, after.total) == ((), (), 1)


def test_a_dead_share_does_not_stop_the_stop(
    room: bytes, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that hangs in the file system is left behind after the timeout, and is a daemon."""
    hung, free = threading.Event(), threading.Event()

    def hanging(*_args: object, **_more: object) -> None:
        hung.set()
        free.wait(PATIENCE)
        raise OSError(errno.EHOSTDOWN, "Host is down")

    monkeypatch.setattr(watch_module.look, "scan", hanging)
    house = start(room)
    assert hung.wait(PATIENCE)
    assert not house.watcher.stop(0.01)
    assert house.watcher.running
    assert [one.daemon for one in threading.enumerate() if one.name == "watch-talks"] == [True]
    free.set()
    assert house.watcher.stop(PATIENCE)


@pytest.mark.parametrize(
    "arrive", ["write", "rename in", "move in", "link in", "non-utf-8", "newline", "subfolder"]
)
def test_events_wake_the_scan(room: bytes, start: Start, arrive: str) -> None:
    """However a file arrives on a local disk, it is seen without waiting for the timer."""
    root, outside = room + b"/inbox", room + b"/outside.wav"
    os.mkdir(root)
    with open(outside, "wb") as file:
        file.write(b"x")
    house = start(root, events=True, scan_seconds=3600.0)
    assert house.next(Online).mode == "events"
    house.next(Scanned)
    name = b"a.wav"
    if arrive == "write":
        house.put(name)
    elif arrive == "rename in":
        os.rename(house.put(b".a.wav.Xy12Zz"), os.path.join(root, name))
    elif arrive == "move in":
        os.rename(outside, os.path.join(root, name))
    elif arrive == "link in":
        os.link(outside, os.path.join(root, name))
    else:
        name = {"non-utf-8": b"\xff.wav", "newline": b"a\nb.wav", "subfolder": b"x/y/a.wav"}[arrive]
        house.put(name)
    assert house.seen(1) == {name}


def test_a_folder_of_twenty_files_moves_in(room: bytes, start: Start) -> None:
    """A tree that is moved in is seen whole, and so is what is added to it later."""
    os.mkdir(room + b"/inbox")
    for number in range(20):
        folder = room + b"/tree/%d" % (number % 3)
        os.makedirs(folder, exist_ok=True)
        with open(folder + b"/%d.wav" % number, "wb"):
            pass
    house = start(room + b"/inbox", events=True, scan_seconds=3600.0)
    house.next(Online)
    house.next(Scanned)
    os.rename(room + b"/tree", room + b"/inbox/tree")
    assert len(house.seen(20)) == 20
    house.put(b"tree/1/later.wav")
    assert house.seen(1) == {b"tree/1/later.wav"}


def test_a_deletion_wakes_the_scan(room: bytes, start: Start) -> None:
    """A file that is deleted vanishes without waiting for the timer."""
    house = start(room, events=True, scan_seconds=3600.0)
    house.next(Online)
    house.put(b"a.wav")
    house.seen(1)
    os.unlink(room + b"/a.wav")
    gone = house.wait(Scanned, lambda one: one.vanished)
    assert gone.vanished == (b"a.wav",)


def test_ignored_names_wake_nobody(room: bytes, start: Start) -> None:
    """Our own receipts and other temporary names cause no scan; the next real file does."""
    house = start(room, events=True, scan_seconds=3600.0)
    house.next(Online)
    house.next(Scanned)
    os.mkdir(room + b"/@eaDir")
    for name in (b"a.wav.penstock.json", b".penstock-1.part", b"b.part", b"@eaDir/c.wav"):
        os.rename(house.put(name + b".tmp"), os.path.join(room, name))
    # The bell rings in order: when this one is heard, the others have been.
    house.put(b"real.wav")
    first = house.next(Scanned)
    assert changed(first) == {b"real.wav"}


def test_a_root_made_anew_is_heard_again(room: bytes, start: Start) -> None:
    """After the root was removed and made again, events wake the scan as before."""
    root = room + b"/inbox"
    os.mkdir(root)
    house = start(root, events=True, scan_seconds=3600.0)
    house.put(b"a.wav")
    house.seen(1)
    shutil.rmtree(root)
    house.wait(Offline, lambda _one: True)
    os.mkdir(root)
    house.watcher.look()
    assert house.wait(Online, lambda _one: True).mode == "events"
    assert house.wait(Scanned, lambda _one: True).vanished == (b"a.wav",)
    house.put(b"b.wav")
    assert house.seen(1) == {b"b.wav"}


def test_without_inotify_the_timer_does_it(
    room: bytes, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When no watch can be had, a warning says why and the scan comes every few seconds."""

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    monkeypatch.setattr(Bell, "attach", full)
    monkeypatch.setattr(watch_module, "SCAN_SECONDS", 0.05)
    house = start(room, events=True)
    assert house.next(Online).mode == "scan"
    house.put(b"a.wav")
    assert house.seen(1) == {b"a.wav"}
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 1
    assert "raise fs.inotify.max_user_watches" in warned[0]


def test_too_few_watches_are_noticed(
    room: bytes, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When the kernel watches fewer folders than there are, the short timer takes over."""
    os.makedirs(room + b"/a/b")
    monkeypatch.setattr(bell_module, "inotify_watches", lambda: 2)
    house = start(room, events=True)
    assert house.next(Online).mode == "events"
    assert house.wait(Online, lambda _one: True).mode == "scan"
    assert "only 2 of 3 folders are watched" in caplog.text


def test_an_overflow_rings_everybody(room: bytes, start: Start) -> None:
    """The library's log line about lost events makes every watch scan."""
    houses = []
    for name in (b"one", b"two"):
        os.mkdir(os.path.join(room, name))
        houses.append(start(os.path.join(room, name), events=True, scan_seconds=3600.0))
        houses[-1].next(Online)
        houses[-1].next(Scanned)
    logging.getLogger(bell_module.LIBRARY_LOG).warning("Inotify queue overflowed; events were lost")
    for house in houses:
        assert house.next(Scanned).changed == ()


class Ringer:
    """Counts how often it is rung."""

    def __init__(self) -> None:
        self.rung = threading.Event()

    def look(self) -> None:
        self.rung.set()


def test_the_bell_counts_and_ends(room: bytes) -> None:
    """An attached folder has its watches in the kernel; after stop there are none left."""
    os.makedirs(room + b"/a/b")
    before, one, bell = inotify_watches(), Ringer(), Bell()
    try:
        bell.attach(one, room)
        assert bell.alive(one)
        assert inotify_watches() == before + 3
        assert bell.deaf(one, 3) == ""
        assert "only" in bell.deaf(one, before + 4)
        bell.detach(one)
        assert not bell.alive(one)
        assert inotify_watches() == before
        bell.detach(one)
        bell.attach(one, room)
        with open(room + b"/a/b/x.wav", "wb"):
            pass
        assert one.rung.wait(PATIENCE)
    finally:
        bell.stop()
    assert inotify_watches() == before
    assert not bell.alive(one)


def test_a_root_that_is_not_there_can_not_be_heard(room: bytes) -> None:
    """Attaching to a missing folder is an OSError, and the bell still works for others."""
    one, bell = Ringer(), Bell()
    try:
        with pytest.raises(OSError, match=r"."):
            bell.attach(one, room + b"/nowhere")
        assert not bell.alive(one)
        bell.attach(one, room)
        assert bell.alive(one)
    finally:
        bell.stop()


@pytest.fixture
def share(room: bytes) -> Iterator[bytes]:
    """A real tmpfs mounted below the room; mounted again by the test, unmounted whatever happens."""
    point = room + b"/share"
    os.mkdir(point)
    if os.geteuid() != 0 or not shutil.which("mount") or not shutil.which("umount"):
        pytest.skip("only root can mount")
    if not mount(point, "nas:one"):
        pytest.skip("mount is not allowed here")
    try:
        yield point
    finally:
        while os.path.ismount(point):
            umount(point)


def mount(point: bytes, source: str) -> bool:
    command = ["mount", "-t", "tmpfs", source, os.fsdecode(point)]
    return subprocess.run(command, capture_output=True).returncode == 0


def umount(point: bytes) -> None:
    subprocess.run(["umount", "-l", os.fsdecode(point)], check=True)


def test_a_real_unmount_loses_nothing(share: bytes, start: Start) -> None:
    """Unmounted is offline, the bare mount point is not looked into, a remount brings it back."""
    house = start(share, events=True, require_mount=False)
    pin = house.next(Online).pin
    assert "nas:one" in pin
    house.put(b"a.wav")
    house.seen(1)
    umount(share)
    with open(share + b"/bare.wav", "wb"):
        pass
    house.watcher.probe([b"a.wav"])
    house.watcher.look()
    assert "nas:one" in house.wait(Offline, lambda _one: True).reason
    assert mount(share, "nas:one")
    house.put(b"b.wav")
    house.watcher.look()
    assert house.wait(Online, lambda _one: True).pin == pin
    # What the remounted share holds is the truth again; it is another, empty tmpfs here.
    assert house.wait(Scanned, lambda one: one.vanished).vanished == (b"a.wav",)
    house.put(b"c.wav")
    assert b"c.wav" in house.seen(1)
    assert house.wait(Probed, lambda _one: True).probe.sighting is None if False else True


def test_another_share_in_its_place_is_refused(share: bytes, start: Start) -> None:
    """A different share at the same point is offline, also for a watcher that starts anew."""
    house = start(share, require_mount=True)
    pin = house.next(Online).pin
    house.next(Scanned)
    umount(share)
    assert mount(share, "nas:two")
    house.watcher.look()
    assert "nas:two" in house.next(Offline).reason
    assert "nas:two" in start(share, pin=pin).next(Offline).reason


def test_a_share_mounted_late_is_taken(share: bytes, start: Start) -> None:
    """A folder that was seen bare at the start is taken with the share that is put over it."""
    umount(share)
    house = start(share, events=True)
    bare = house.next(Online).pin
    house.next(Scanned)
    assert mount(share, "nas:one")
    house.put(b"a.wav")
    house.watcher.look()
    assert house.wait(Online, lambda one: one.pin != bare).mode == "events"
    assert house.seen(1) == {b"a.wav"}
    house.put(b"b.wav")
    assert house.seen(1) == {b"b.wav"}
