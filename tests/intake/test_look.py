"""Looks at real folders: what is taken, what is skipped and why, what a close look finds."""

import os
import socket
import struct
from collections.abc import Iterator
from typing import BinaryIO

import pytest

from daemon.intake import ignore, look
from daemon.intake.findings import Scan, Skip
from daemon.intake.lease import Writer
from daemon.intake.look import LINK, look_at, probe, scan
from daemon.intake.wholeness import Incomplete, Opaque, Verdict, Whole, check
from daemon.values import Sighting
from pipeline.core.errors import Transient

TAKES = frozenset({b".wav", b".txt"})


def put(root: bytes, name: bytes, data: bytes = b"x", mtime: int = 1000) -> bytes:
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    os.utime(path, (mtime, mtime))
    return path


def wav(samples: int, written: int | None = None) -> bytes:
    """A mono 16-bit WAV; `written` cuts it to so many bytes of sound."""
    sound = b"\x01\x02" * samples
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    head = b"WAVE" + form + b"data" + struct.pack("<I", len(sound))
    riff = b"RIFF" + struct.pack("<I", len(head) + len(sound)) + head
    return riff + (sound if written is None else sound[:written])


def walk(root: bytes, only: frozenset[bytes] | None = None) -> Scan:
    return scan(root, local=True, takes=TAKES, only=only)


def names(found: Scan) -> list[bytes]:
    return [sighting.name for sighting in found.sightings]


def reasons(found: Scan) -> dict[bytes, str]:
    return {skip.name: skip.reason for skip in found.skips}


def test_files_come_in_the_order_of_their_arrival(room: bytes) -> None:
    """Sightings are sorted by mtime, then name, through all real subfolders."""
    put(room, b"late.wav", mtime=3000)
    put(room, b"b.wav", mtime=2000)
    put(room, b"deep/er/a.wav", mtime=2000)
    put(room, b"deep/first.wav", b"12345", mtime=1000)
    found = walk(room)
    assert names(found) == [b"deep/first.wav", b"b.wav", b"deep/er/a.wav", b"late.wav"]
    assert found.folders == 3
    first = found.sightings[0]
    assert (first.size, first.mtime_ns) == (5, 1000 * 10**9)
    assert first.ino == os.stat(room + b"/deep/first.wav").st_ino


def test_on_a_share_inode_numbers_do_not_count(room: bytes) -> None:
    """A sighting of a network mount carries no inode, whoever took it."""
    put(room, b"a.wav")
    found = scan(room, local=False, takes=TAKES).sightings[0]
    assert found.ino == 0
    assert look_at(room, b"a.wav", local=False, takes=TAKES) == found
    assert probe(room, b"a.wav", local=False).sighting == found


def test_what_is_no_regular_file_is_skipped_with_its_reason(room: bytes) -> None:
    """Links, pipes, sockets, other suffixes and temporary names are told apart and not opened."""
    put(room, b"good.wav")
    put(room, b"talk.xyz")
    put(room, b".hidden.wav")
    os.symlink(b"good.wav", room + b"/link.wav")
    os.mkfifo(room + b"/pipe.wav")
    here = os.getcwd()
    os.chdir(room)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as plug:
            plug.bind(b"plug.wav")
    finally:
        os.chdir(here)
    found = walk(room)
    why = reasons(found)
    assert names(found) == [b"good.wav"]
    assert why[b"link.wav"] == LINK
    assert "pipe" in why[b"pipe.wav"]
    assert "socket" in why[b"plug.wav"]
    assert ".xyz" in why[b"talk.xyz"]
    assert why[b".hidden.wav"]
    assert found.skipped == 5
    for name, reason in why.items():
        assert look_at(room, name, local=True, takes=TAKES) == Skip(name, reason)


def test_a_linked_folder_is_not_walked(room: bytes) -> None:
    """What lies behind a link to another folder is not seen, by a scan, a look or a probe."""
    put(room, b"outside/secret.wav")
    os.mkdir(room + b"/watch")
    os.symlink(room + b"/outside", room + b"/watch/way")
    watch = room + b"/watch"
    found = walk(watch)
    assert names(found) == []
    assert reasons(found) == {b"way": LINK}
    inside = look_at(watch, b"way/secret.wav", local=True, takes=TAKES)
    assert isinstance(inside, Skip)
    assert LINK in inside.reason
    assert probe(watch, b"way/secret.wav", local=True).sighting is None


@pytest.mark.parametrize("name", [b"", b"..", b"../a.wav", b"/etc/passwd", b"a//b.wav", b"./a.wav"])
def test_names_that_lead_elsewhere_are_refused(room: bytes, name: bytes) -> None:
    """A name must lie below its watch."""
    found = look_at(room, name, local=True, takes=TAKES)
    assert found == Skip(name, "not a name below the watched folder")


@pytest.mark.parametrize("name", [b"bad\xff\xfe.wav", b"two\nlines.wav", b"sp ace/\xc3\xa9.wav"])
def test_names_are_bytes(room: bytes, name: bytes) -> None:
    """Names that are no text, or hold newlines, are seen and probed like any other."""
    put(room, name, wav(100))
    found = walk(room)
    assert names(found) == [name]
    assert look_at(room, name, local=True, takes=TAKES) == found.sightings[0]
    assert probe(room, name, local=True).sighting == found.sightings[0]


def test_a_file_with_its_download_beside_it_waits(room: bytes) -> None:
    """The final name that a browser makes first is not taken while its part file is there."""
    put(room, b"talk.wav", b"")
    put(room, b"talk.wav.part")
    assert names(walk(room)) == []
    one = look_at(room, b"talk.wav", local=True, takes=TAKES)
    assert isinstance(one, Skip)
    assert "talk.wav.part" in one.reason
    os.rename(room + b"/talk.wav.part", room + b"/talk.wav")
    assert names(walk(room)) == [b"talk.wav"]


@pytest.mark.parametrize("end", ignore._BESIDE)
def test_every_unfinished_half_is_known(room: bytes, end: bytes) -> None:
    """Whatever a program writes beside a final name, that name waits until it is gone."""
    put(room, b"talk.wav")
    put(room, b"other.wav")
    put(room, b"talk.wav" + end)
    assert names(walk(room)) == [b"other.wav"]


def test_ignored_folders_are_not_walked(room: bytes) -> None:
    """A NAS's own folders are neither walked nor looked into by name."""
    put(room, b"@eaDir/thumb.wav")
    assert names(walk(room)) == []
    one = look_at(room, b"@eaDir/thumb.wav", local=True, takes=TAKES)
    assert isinstance(one, Skip)
    assert "ignored folder" in one.reason


def test_many_skips_are_counted_and_not_kept(room: bytes) -> None:
    """A folder full of what is not taken costs no memory: a few reasons and a number."""
    for number in range(look.SKIPS_KEPT + 50):
        put(room, b"%d.jpg" % number)
    found = walk(room)
    assert len(found.skips) == look.SKIPS_KEPT
    assert found.skipped == look.SKIPS_KEPT + 50


def test_only_these_names_are_looked_at(room: bytes) -> None:
    """With `only`, nothing is walked and the suffix still counts."""
    put(room, b"a.wav")
    put(room, b"b.wav")
    put(room, b"sub/c.wav")
    put(room, b"d.jpg")
    found = walk(room, only=frozenset({b"a.wav", b"sub/c.wav", b"d.jpg", b"none.wav"}))
    assert names(found) == [b"a.wav", b"sub/c.wav"]
    assert reasons(found)[b"none.wav"] == "there is no such file"
    assert ".jpg" in reasons(found)[b"d.jpg"]
    assert found.folders == 0


@pytest.fixture
def closed(room: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[bytes]:
    """A folder `closed/` with a file in it that can not be read, even by root."""
    put(room, b"closed/in.wav")
    put(room, b"open.wav")
    if os.geteuid() != 0:
        os.chmod(room + b"/closed", 0)
        yield room
        os.chmod(room + b"/closed", 0o755)
        return
    real = os.open

    def refusing(path: bytes, flags: int, *args: int, **more: int) -> int:
        if path == room + b"/closed":
            raise PermissionError(13, "Permission denied", path)
        return real(path, flags, *args, **more)

    monkeypatch.setattr("daemon.intake.look.os.open", refusing)
    yield room


def test_an_unreadable_folder_hides_its_files_and_says_so(closed: bytes) -> None:
    """Its name is reported as unread, with a reason; the rest of the watch is seen."""
    found = walk(closed)
    assert names(found) == [b"open.wav"]
    assert found.unread == (b"closed",)
    assert "permission denied" in reasons(found)[b"closed"]


def test_a_name_too_long_to_walk_is_unread(room: bytes) -> None:
    """A tree deeper than any path may be is skipped, not an error."""
    here = os.open(room, os.O_RDONLY)
    try:
        for _step in range(20):
            os.mkdir(b"d" * 250, dir_fd=here)
            below = os.open(b"d" * 250, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
    finally:
        os.close(here)
    found = walk(room)
    assert len(found.unread) == 1
    assert found.skipped == 1


def test_a_failing_share_is_an_error_and_not_an_empty_folder(
    room: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale handle on a share ends the scan; on a local disk one bad folder is unread."""
    put(room, b"sub/a.wav")
    real = os.listdir

    def failing(fd: int) -> list[str]:
        if os.readlink(b"/proc/self/fd/%d" % fd).endswith(b"/sub"):
            raise OSError(116, "Stale file handle")
        return real(fd)

    monkeypatch.setattr("daemon.intake.look.os.listdir", failing)
    with pytest.raises(OSError, match="Stale"):
        scan(room, local=False, takes=TAKES)
    assert walk(room).unread == (b"sub",)


def test_a_missing_root_is_an_error(room: bytes) -> None:
    """No root is not the same as no files."""
    with pytest.raises(FileNotFoundError):
        walk(room + b"/nowhere")


def test_a_close_look_at_a_whole_file(room: bytes) -> None:
    """A probe sees what the scan saw, nobody writing, and a complete container."""
    put(room, b"a.wav", wav(1000))
    found = probe(room, b"a.wav", local=True, at=12.5)
    assert found.sighting == walk(room).sightings[0]
    assert found.writer is Writer.NONE
    assert found.shape == Whole("wav")
    assert found.at == 12.5
    assert not found.problem


def test_a_close_look_sees_the_writer_and_the_missing_tail(room: bytes) -> None:
    """While a program has the file open it is named, and a cut container is seen as cut."""
    path = put(room, b"a.wav", wav(5000, written=3000))
    with open(path, "ab"):
        found = probe(room, b"a.wav", local=True)
        assert found.writer is Writer.OPEN
        assert isinstance(found.shape, Incomplete)
    assert probe(room, b"a.wav", local=True).writer is Writer.NONE


def test_on_a_share_nobody_is_asked_for_writers(room: bytes) -> None:
    """A lease says nothing about other machines, so the writer is unknown."""
    with open(put(room, b"a.txt", b"hello"), "ab"):
        found = probe(room, b"a.txt", local=False)
    assert found.writer is Writer.UNKNOWN
    assert found.shape == Opaque()


def test_what_is_gone_or_replaced_has_no_sighting(room: bytes) -> None:
    """A missing file, a missing folder, a link and a pipe in its place: gone, without blocking."""
    os.mkfifo(room + b"/pipe.wav")
    os.symlink(b"/etc/passwd", room + b"/link.wav")
    for name in (b"none.wav", b"none/a.wav", b"pipe.wav", b"link.wav", b"pipe.wav/a.wav"):
        found = probe(room, name, local=True)
        assert found.sighting is None, name
        assert not found.problem


def test_a_file_that_may_not_be_read_has_a_problem(
    room: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permission denied is no verdict: the file stays seen, and the reason says what to do."""
    put(room, b"a.wav")

    def refused(_root: bytes, _name: bytes) -> None:
        raise Transient("no") from PermissionError(13, "Permission denied")

    monkeypatch.setattr(look, "open_beneath", refused)
    found = probe(room, b"a.wav", local=True)
    assert isinstance(found.sighting, Sighting)
    assert found.problem == "permission denied: give the service's user the right to read it"


def test_a_read_error_is_a_problem(room: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails while the container is read makes the file wait, not vanish."""
    put(room, b"a.wav", wav(100))

    def broken(_file: object, _size: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(look, "check", broken)
    found = probe(room, b"a.wav", local=True)
    assert found.problem == "it can not be read: Input/output error"
    assert found.sighting == walk(room).sightings[0]


def test_growth_during_the_look_is_not_whole(room: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that grows while its container is read has no shape, and its newer identity."""
    path = put(room, b"a.wav", wav(100))

    def meanwhile(file: BinaryIO, size: int) -> Verdict:
        with open(path, "ab") as more:
            more.write(b"more")
        return check(file, size)

    monkeypatch.setattr(look, "check", meanwhile)
    found = probe(room, b"a.wav", local=True)
    assert found.shape is None
    assert found.sighting is not None
    assert found.sighting.size == len(wav(100)) + 4
