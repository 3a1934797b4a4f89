"""Watchers at work with events: what wakes them, and what happens when nothing does."""

import errno
import logging
import os
import shutil
import threading
from collections.abc import Callable

import pytest

from daemon.intake import bell as bell_module
from daemon.intake import watch
from daemon.intake.bell import Bell, inotify_watches
from daemon.intake.findings import Offline, Online, Scanned
from tests.intake.houses import PATIENCE, House, changed, mount, put, umount

Start = Callable[..., House]


@pytest.mark.parametrize(
    "arrive", ["write", "rename in", "move in", "link in", "non-utf-8", "newline", "subfolder"]
)
def test_events_wake_the_scan(room: bytes, start: Start, arrive: str) -> None:
    """However a file arrives on a local disk, it is seen without waiting for the timer."""
    outside = put(room, b"outside.wav")
    root = room + b"/inbox"
    os.mkdir(root)
    house = start(root, events=True)
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
    assert house.heard() == {name}


def test_a_folder_of_twenty_files_moves_in(room: bytes, start: Start) -> None:
    """A tree that is moved in is seen whole, and so is what is added to it later."""
    root = room + b"/inbox"
    os.mkdir(root)
    for number in range(20):
        put(room, b"tree/%d/%d.wav" % (number % 3, number))
    house = start(root, events=True)
    house.ready()
    os.rename(room + b"/tree", root + b"/tree")
    assert len(house.heard(20)) == 20
    house.put(b"tree/1/later.wav")
    assert house.heard() == {b"tree/1/later.wav"}


def test_a_deletion_wakes_the_scan(room: bytes, start: Start) -> None:
    """A file that is deleted vanishes without waiting for the timer."""
    put(room, b"a.wav")
    house = start(room, events=True)
    house.ready()
    os.unlink(room + b"/a.wav")
    assert house.wait(Scanned, lambda one: one.vanished).vanished == (b"a.wav",)


def test_ignored_names_wake_nobody(room: bytes, start: Start) -> None:
    """Our own receipts and other temporary names cause no scan; the next real file does."""
    os.mkdir(room + b"/@eaDir")
    house = start(room, events=True)
    house.ready()
    for name in (b"a.wav.penstock.json", b".penstock-1.part", b"b.part", b"@eaDir/c.wav"):
        os.rename(house.put(name + b".tmp"), os.path.join(room, name))
    # The bell rings in order: when this one is heard, the others have been.
    house.put(b"real.wav")
    assert changed(house.next(Scanned)) == {b"real.wav"}


def test_a_root_made_anew_is_heard_again(room: bytes, start: Start) -> None:
    """After the root was removed and made again, events wake the scan as before."""
    root = room + b"/inbox"
    put(root, b"a.wav")
    house = start(root, events=True)
    house.ready()
    shutil.rmtree(root)
    house.wait(Offline)
    os.mkdir(root)
    house.watcher.look()
    assert house.wait(Online).mode == "events"
    assert house.wait(Scanned).vanished == (b"a.wav",)
    house.put(b"b.wav")
    assert house.heard() == {b"b.wav"}


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
    assert house.heard() == {b"a.wav"}
    house.put(b"b.wav")
    assert house.heard() == {b"b.wav"}


def test_a_remounted_share_is_heard_again(share: bytes, start: Start) -> None:
    """Events are attached anew to what was mounted in the old one's place."""
    house = start(share, events=True)
    house.ready()
    umount(share)
    house.watcher.look()
    house.wait(Offline)
    assert mount(share, "nas:one")
    house.watcher.look()
    assert house.wait(Online).mode == "events"
    house.wait(Scanned)
    house.put(b"a.wav")
    assert house.heard() == {b"a.wav"}


def test_without_inotify_the_timer_does_it(
    room: bytes, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When no watch can be had, a warning says why and the scan comes every few seconds."""

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    monkeypatch.setattr(Bell, "attach", full)
    monkeypatch.setattr(watch, "SCAN_SECONDS", 0.05)
    house = start(room, events=True, scan_seconds=0.0)
    assert house.next(Online).mode == "scan"
    house.put(b"a.wav")
    assert house.heard() == {b"a.wav"}
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
    assert house.wait(Online).mode == "scan"
    assert "only 2 of 3 folders are watched" in caplog.text


def test_an_overflow_rings_everybody(room: bytes, start: Start) -> None:
    """The library's log line about lost events makes every watch scan."""
    houses = []
    for name in (b"one", b"two"):
        os.mkdir(os.path.join(room, name))
        houses.append(start(os.path.join(room, name), events=True))
        houses[-1].ready()
    logging.getLogger(bell_module.LIBRARY_LOG).warning("Inotify queue overflowed; events were lost")
    for house in houses:
        assert house.next(Scanned).changed == ()


class Ringer:
    """Remembers that it was rung."""

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
        put(room, b"a/b/x.wav")
        assert one.rung.wait(PATIENCE)
    finally:
        bell.stop()
    assert inotify_watches() == before
    assert not bell.alive(one)


def test_a_broken_observer_is_replaced(room: bytes) -> None:
    """When the library's reading thread has ended, everybody is rung and attaches to a new one."""
    one, two, bell = Ringer(), Ringer(), Bell()
    try:
        for name, who in ((b"one", one), (b"two", two)):
            os.mkdir(os.path.join(room, name))
            bell.attach(who, os.path.join(room, name))
        reader = bell._observer._inotify_fd  # type: ignore[union-attr]
        reader.stop()
        reader.join(PATIENCE)
        assert not bell.alive(one)
        assert not bell.alive(two)
        bell.attach(one, room + b"/one")
        assert two.rung.wait(PATIENCE)
        bell.attach(two, room + b"/two")
        assert bell.alive(one)
        assert bell.alive(two)
        put(room, b"one/a.wav")
        assert one.rung.wait(PATIENCE)
    finally:
        bell.stop()


def test_a_root_that_is_not_there_can_not_be_heard(room: bytes) -> None:
    """Attaching to a missing folder is an OSError, and the bell still works for others."""
    one, bell = Ringer(), Bell()
    try:
        with pytest.raises(FileNotFoundError):
            bell.attach(one, room + b"/nowhere")
        assert not bell.alive(one)
        bell.attach(one, room)
        assert bell.alive(one)
    finally:
        bell.stop()
