"""Watchers at work by scans alone: what they report, and what an absent folder does to it."""

import errno
import os
import shutil
import threading
from collections.abc import Callable

import msgspec
import pytest

from daemon.intake import watch
from daemon.intake.findings import Offline, Online, Probed, Scanned
from daemon.intake.lease import Writer
from daemon.intake.mounts import Place, find_place
from daemon.intake.settle import Pace, Rules, Settled, Waiting, judge, seen
from tests.intake.handmade import noise, wav
from tests.intake.houses import PATIENCE, House, changed, mount, put, umount

Start = Callable[..., House]


def test_the_first_scan_reports_what_lies_there(room: bytes, start: Start) -> None:
    """Files that were there before the start are reported like new ones, after Online."""
    for name in (b"a.wav", b"sub/b.wav", b"no.jpg"):
        put(room, name)
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
    for name in (b"same.wav", b"grows.wav", b"goes.wav", b"swapped.wav"):
        put(room, name)
    house = start(room)
    house.ready()
    house.put(b"grows.wav", b"more")
    os.replace(house.put(b"other.xyz"), room + b"/swapped.wav")
    os.unlink(room + b"/goes.wav")
    after = house.scan()
    assert changed(after) == {b"grows.wav", b"swapped.wav"}
    assert after.vanished == (b"goes.wav",)
    again = house.scan()
    assert (again.changed, again.vanished) == ((), ())


def test_the_timer_scans_without_being_asked(room: bytes, start: Start) -> None:
    """Where nothing wakes the watcher, it looks every scan_seconds."""
    house = start(room, scan_seconds=0.05)
    house.ready()
    house.put(b"a.wav")
    assert house.heard() == {b"a.wav"}


def test_what_we_moved_ourselves_is_not_reported(room: bytes, start: Start) -> None:
    """A forgotten name does not vanish, and is new if it comes back."""
    put(room, b"a.wav")
    house = start(room)
    house.ready()
    os.rename(room + b"/a.wav", room + b"/.a")
    house.watcher.forget([b"a.wav"])
    assert house.scan().vanished == ()
    os.rename(room + b"/.a", room + b"/a.wav")
    assert changed(house.scan()) == {b"a.wav"}


def test_files_in_an_unreadable_folder_have_not_vanished(
    room: bytes, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that can not be read hides its files; readable again, none is new or gone."""
    put(room, b"sub/a.wav")
    put(room, b"b.wav")
    house = start(room)
    house.ready()
    real, refuse = os.open, threading.Event()

    def refusing(path: bytes, flags: int, *args: int, **more: int) -> int:
        if refuse.is_set() and path == os.path.realpath(room) + b"/sub":
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
    put(room, b"a.wav", b"RIFF")
    house = start(room)
    house.ready()
    house.watcher.probe([b"a.wav", b"gone.wav", b"a.wav"])
    first, second = house.next(Probed), house.next(Probed)
    assert (first.name, second.name) == (b"a.wav", b"gone.wav")
    assert first.probe.sighting is not None
    assert first.probe.writer is Writer.NONE
    assert first.probe.at > 0
    assert second.probe.sighting is None
    assert house.scan().total == 1


def test_a_slow_copy_settles_only_when_it_is_done(room: bytes, start: Start) -> None:
    """From the first byte to the last: seen, held while it is written, settled when whole."""
    rules = Rules(settle_seconds=0.05, incomplete_seconds=100.0, local=True)
    data = wav(noise(2000))
    house, pace = start(room), Pace()
    house.ready()
    with open(room + b"/a.wav", "wb") as copy:
        copy.write(data[:500])
        copy.flush()
        (sighting,) = house.scan().changed
        tracker, pace = seen(None, sighting, house.watcher.alive_at, rules, pace)
        held = set()
        for _look in range(5):
            house.watcher.probe([b"a.wav"])
            probe = msgspec.structs.replace(house.next(Probed).probe, at=tracker.probe_at)
            verdict = judge(tracker, probe, tracker.probe_at, rules, pace)
            assert isinstance(verdict, Waiting)
            tracker, pace = verdict.tracker, verdict.pace
            held.add(tracker.held)
        assert held == {"another program is still writing it"}
        copy.write(data[500:])
    now = tracker.probe_at
    tracker, pace = seen(tracker, house.scan().changed[0], now, rules, pace)
    house.watcher.probe([b"a.wav"])
    probe = msgspec.structs.replace(house.next(Probed).probe, at=tracker.probe_at)
    verdict = judge(tracker, probe, tracker.probe_at, rules, pace)
    assert isinstance(verdict, Settled)
    assert verdict.sighting.size == len(data)


def test_only_watches_walk_nothing(room: bytes, start: Start) -> None:
    """A watch of given names sees these alone and needs no events."""
    put(room, b"a.wav")
    put(room, b"b.wav")
    house = start(room, events=True, only=frozenset({b"a.wav"}))
    assert house.next(Online).mode == "scan"
    assert changed(house.next(Scanned)) == {b"a.wav"}


def test_a_missing_root_is_offline_and_comes_back(room: bytes, start: Start) -> None:
    """A root that goes away is said once and loses nothing; a probe waits for its return."""
    root = room + b"/inbox"
    put(root, b"a.wav")
    put(root, b"b.wav")
    house = start(root)
    house.ready()
    os.rename(root, room + b"/away")
    house.watcher.look()
    assert "is not there" in house.next(Offline).reason
    house.watcher.probe([b"a.wav"])
    house.watcher.look()
    os.unlink(room + b"/away/b.wav")
    os.rename(room + b"/away", root)
    house.watcher.look()
    house.next(Online)
    back = house.next(Scanned)
    assert (back.changed, back.vanished, back.first) == ((), (b"b.wav",), False)
    assert house.wait(Probed).probe.sighting is not None


def test_a_root_that_is_no_folder_is_offline(room: bytes, start: Start) -> None:
    """A file in the folder's place is explained."""
    assert "is not a folder" in start(put(room, b"file")).next(Offline).reason


def test_a_share_that_is_not_mounted_is_offline(room: bytes, start: Start) -> None:
    """With require_mount, a plain folder is not looked into."""
    assert "mount the share" in start(room, require_mount=True).next(Offline).reason


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
    put(room, b"a.wav")
    house = start(room)
    house.ready()
    with monkeypatch.context() as patch:

        def stale(*_args: object, **_more: object) -> None:
            raise OSError(errno.ESTALE, "Stale file handle")

        patch.setattr("daemon.intake.look.scan", stale)
        house.watcher.look()
        assert "Stale file handle" in house.next(Offline).reason
    house.watcher.look()
    house.next(Online)
    back = house.next(Scanned)
    assert (back.changed, back.vanished) == ((), ())


def test_a_folder_that_goes_away_during_the_scan_reports_nothing(
    room: bytes, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the place is another one after the walk, the walk's result is thrown away."""
    root = room + b"/inbox"
    put(root, b"a.wav")
    house = start(root)
    house.ready()
    calls = 0

    def moving(path: bytes, *, require_mount: bool) -> Place:
        nonlocal calls
        calls += 1
        if calls == 3:
            os.rmdir(root)
            os.rename(room + b"/away", root)
        place = find_place(path, require_mount=require_mount)
        if calls == 1:  # like an unmount: the walk sees the bare folder underneath
            os.rename(root, room + b"/away")
            os.mkdir(root)
        return place

    monkeypatch.setattr(watch, "find_place", moving)
    after = house.scan()
    assert calls == 4
    assert (after.changed, after.vanished, after.total) == ((), (), 1)


def test_a_file_that_a_lost_folder_hides_is_not_called_gone(
    room: bytes, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe that finds nothing because the folder went away is asked again when it is back."""
    root = room + b"/inbox"
    put(root, b"a.wav")
    house = start(root)
    house.ready()
    real = watch.Watcher._answer

    def after_a_move(self: watch.Watcher, place: Place, name: bytes) -> bool:
        if not os.path.exists(room + b"/away"):
            os.rename(root, room + b"/away")
        return real(self, place, name)

    monkeypatch.setattr(watch.Watcher, "_answer", after_a_move)
    house.watcher.probe([b"a.wav"])
    assert "is not there" in house.next(Offline).reason
    monkeypatch.undo()
    os.rename(room + b"/away", root)
    house.watcher.look()
    assert house.wait(Probed).probe.sighting is not None


def test_a_dead_share_does_not_stop_the_stop(
    room: bytes, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that hangs in the file system is left behind after the timeout, as a daemon."""
    hung, free = threading.Event(), threading.Event()

    def hanging(*_args: object, **_more: object) -> None:
        hung.set()
        free.wait(PATIENCE)
        raise OSError(errno.EHOSTDOWN, "Host is down")

    monkeypatch.setattr("daemon.intake.look.scan", hanging)
    house = start(room)
    assert hung.wait(PATIENCE)
    assert not house.watcher.stop(0.01)
    assert house.watcher.running
    assert [one.daemon for one in threading.enumerate() if one.name == "watch-talks"] == [True]
    free.set()
    assert house.watcher.stop(PATIENCE)


def test_a_real_unmount_loses_nothing(share: bytes, start: Start) -> None:
    """Unmounted is offline, the bare mount point is not looked into, a remount brings it back."""
    put(share, b"a.wav")
    house = start(share)
    pin = house.next(Online).pin
    assert "nas:one" in pin
    assert changed(house.next(Scanned)) == {b"a.wav"}
    umount(share)
    put(share, b"bare.wav")
    house.watcher.probe([b"a.wav"])
    assert "nas:one" in house.next(Offline).reason
    assert mount(share, "nas:one")
    put(share, b"b.wav")
    house.watcher.look()
    assert house.next(Online).pin == pin
    # What the remounted share holds is the truth again; this one came back without a.wav.
    back = house.next(Scanned)
    assert changed(back) == {b"b.wav"}
    assert back.vanished == (b"a.wav",)
    assert house.wait(Probed).probe.sighting is None


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


def test_a_folder_with_a_share_below_it_is_not_local(share: bytes, room: bytes) -> None:
    """One mount inside that is not known as local makes the whole watch careful."""
    assert find_place(room).local
    umount(share)
    shutil.rmtree(share)
    assert find_place(room).local
