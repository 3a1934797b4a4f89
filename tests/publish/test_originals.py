"""Where originals go, and that none is ever lost, overwritten or taken by mistake."""

import hashlib
import os
from collections.abc import Callable

import msgspec
import pytest

from daemon.publish.originals import (
    Changed,
    Missing,
    Moved,
    choose_place,
    delete_original,
    find_ticket,
    move_original,
    move_ticket,
    same_file,
)
from daemon.values import Sighting
from pipeline.core import files
from pipeline.core.errors import NoSpace, Transient
from tests.publish.crash import tree
from tests.publish.mounts import mounted, small_disk
from tests.publish.samples import NAMES, elsewhere, folders, make, marks, seen

SOUND = bytes(range(256)) * 64


def sides(room: bytes, archive: bytes, name: bytes = b"talk.wav") -> tuple[bytes, Sighting, bytes]:
    """A drop in a new inbox and its free place in the archive."""
    inbox = os.path.join(room, b"in")
    source = make(os.path.join(inbox, name), SOUND)
    os.utime(source, ns=(10**18, 1_234_567_890_123_456_789))
    return source, seen(inbox, name), choose_place(archive, name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("across", [False, True])
def test_an_original_moves_under_its_name(room: bytes, name: bytes, across: bool) -> None:
    """Every name that a share can hold arrives in the archive, subfolders, bytes and date kept."""
    with elsewhere(room) as far:
        (archive,) = folders(far if across else room, b"archive")
        source, sighting, place = sides(room, archive, name)
        assert move_original(source, sighting, place) == Moved(place)
        assert tree(archive) == {name: SOUND}
        assert os.stat(place).st_mtime_ns == 1_234_567_890_123_456_789
        assert tree(os.path.join(room, b"in")) == {}
        assert move_original(source, sighting, place) == Moved(place)


def test_places_are_numbered(room: bytes) -> None:
    """A taken place is numbered before its suffix, and a parent that is no folder as well."""
    make(os.path.join(room, b"talk.wav"))
    make(os.path.join(room, b"sub"))
    os.symlink(b"nowhere", os.path.join(room, b"talk (2).wav"))
    os.symlink(b"/etc", os.path.join(room, b"link"))
    assert choose_place(room, b"talk.wav") == os.path.join(room, b"talk (3).wav")
    assert choose_place(room, b"sub/talk.wav") == os.path.join(room, b"sub (2)/talk.wav")
    assert choose_place(room, b"link/passwd") == os.path.join(room, b"link (2)/passwd")
    assert choose_place(room, b"../../up.wav") == os.path.join(room, b"up.wav")


@pytest.mark.parametrize("across", [False, True])
def test_a_taken_place_is_not_overwritten(room: bytes, across: bool) -> None:
    """What lies at the place stays, even a file of the same size, a link, a folder or a pipe."""
    with elsewhere(room) as far:
        (archive,) = folders(far if across else room, b"archive")
        source, sighting, place = sides(room, archive)
        plants: list[Callable[[], object]] = [
            lambda: make(place, b"x" * len(SOUND)),
            lambda: os.symlink(b"/etc/passwd", place),
            lambda: os.mkfifo(place),
            lambda: os.mkdir(place),
        ]
        for plant in plants:
            plant()
            before = marks(place)
            with pytest.raises(FileExistsError):
                move_original(source, sighting, place)
            assert marks(place) == before
            assert tree(os.path.join(room, b"in")) == {b"talk.wav": SOUND}
            if not os.path.isdir(place) or os.path.islink(place):
                os.unlink(place)


def test_a_copy_that_is_there_already_ends_the_move(room: bytes) -> None:
    """After a crash between copy and removal the same bytes count as arrived."""
    (archive,) = folders(room, b"archive")
    source, sighting, place = sides(room, archive)
    make(place, SOUND)
    wrong = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(FileExistsError):
        move_original(source, sighting, place, wrong)
    right = hashlib.sha256(SOUND).hexdigest()
    assert move_original(source, sighting, place, right) == Moved(place)
    assert tree(os.path.join(room, b"in")) == {}


@pytest.mark.parametrize("across", [False, True])
def test_a_changed_file_is_left_alone(room: bytes, across: bool) -> None:
    """A file of another size, date or inode, a link, a folder or a pipe at the name stays."""
    with elsewhere(room) as far:
        (archive,) = folders(far if across else room, b"archive")
        source, sighting, place = sides(room, archive)
        for other in (
            msgspec.structs.replace(sighting, size=sighting.size - 1),
            msgspec.structs.replace(sighting, mtime_ns=sighting.mtime_ns + 1),
            msgspec.structs.replace(sighting, ino=sighting.ino + 1),
        ):
            assert move_original(source, other, place) == Changed()
            assert delete_original(source, other) == Changed()
        assert tree(os.path.join(room, b"in")) == {b"talk.wav": SOUND}
        os.rename(source, source + b".real")
        plants: list[Callable[[], object]] = [
            lambda: os.symlink(source + b".real", source),
            lambda: os.mkfifo(source),
            lambda: os.mkdir(source),
        ]
        for plant in plants:
            plant()
            assert move_original(source, sighting, place) == Changed()
            assert delete_original(source, sighting) == Changed()
            if not os.path.isdir(source) or os.path.islink(source):
                os.unlink(source)
        assert os.listdir(archive) == []


def test_other_bytes_of_the_same_look_are_changed(room: bytes) -> None:
    """With a known digest, a file that only looks the same is not taken for the original."""
    with elsewhere(room) as far:
        source, sighting, place = sides(room, far)
        wrong = hashlib.sha256(b"other").hexdigest()
        assert move_original(source, sighting, place, wrong) == Changed()
        assert tree(os.path.join(room, b"in")) == {b"talk.wav": SOUND}
        assert tree(far) == {}


def test_inodes_count_only_where_they_mean_something(room: bytes) -> None:
    """A sighting from a share has no inode, and the file still counts as the same."""
    source, sighting, place = sides(room, room)
    assert same_file(source, msgspec.structs.replace(sighting, ino=0))
    assert not same_file(source, msgspec.structs.replace(sighting, ino=0, size=1))
    assert move_original(source, msgspec.structs.replace(sighting, ino=0), place) == Moved(place)


@pytest.mark.parametrize("gone", ["file", "folder"])
def test_a_missing_original_is_said_so(room: bytes, gone: str) -> None:
    """Without a file at either place the answer is Missing, and no folder is made for it."""
    (archive,) = folders(room, b"archive")
    source, sighting, place = sides(room, archive, b"sub/talk.wav")
    os.unlink(source)
    if gone == "folder":
        os.rmdir(os.path.dirname(source))
    assert move_original(source, sighting, place) == Missing()
    assert delete_original(source, sighting) == Missing()
    assert os.listdir(archive) == []


def test_an_emptied_subfolder_does_not_hide_the_arrival(room: bytes) -> None:
    """An original that was moved counts as moved, even if its folder was deleted since."""
    (archive,) = folders(room, b"archive")
    source, sighting, place = sides(room, archive, b"sub/talk.wav")
    assert move_original(source, sighting, place) == Moved(place)
    os.rmdir(os.path.dirname(source))
    assert move_original(source, sighting, place) == Moved(place)


def test_a_share_that_is_away_is_not_missing(room: bytes) -> None:
    """A watched or archive folder that is gone is Transient, and it is not made anew."""
    (archive,) = folders(room, b"archive")
    source, sighting, place = sides(room, archive)
    os.rename(archive, archive + b" away")
    with pytest.raises(Transient, match="not there"):
        move_original(source, sighting, place)
    assert not os.path.exists(archive)
    os.rename(archive + b" away", archive)
    os.rename(os.path.join(room, b"in"), os.path.join(room, b"in away"))
    with pytest.raises(Transient, match="not there"):
        move_original(source, sighting, place)
    with pytest.raises(Transient, match="not there"):
        delete_original(source, sighting)


def test_links_in_the_way_are_not_followed(room: bytes) -> None:
    """Neither a watched subfolder nor an archive subfolder that became a link is entered."""
    archive, away = folders(room, b"archive", b"away")
    source, sighting, place = sides(room, archive, b"sub/talk.wav")
    os.symlink(away, os.path.join(archive, b"sub"))
    with pytest.raises(FileExistsError):
        move_original(source, sighting, place)
    place = choose_place(archive, b"sub/talk.wav")
    assert place == os.path.join(archive, b"sub (2)/talk.wav")
    os.rename(os.path.dirname(source), os.path.join(away, b"real"))
    os.symlink(os.path.join(away, b"real"), os.path.dirname(source))
    assert move_original(source, sighting, place) == Missing()
    assert delete_original(source, sighting) == Missing()
    assert tree(away) == {b"real/talk.wav": SOUND}


def test_a_bind_mount_of_one_disk_is_another_disk(room: bytes) -> None:
    """Between bind mounts of one file system the original is copied, verified and removed."""
    real, archive = folders(room, b"real", b"archive")
    with mounted(archive, "--bind", os.fsdecode(real)):
        source, sighting, place = sides(room, archive)
        assert move_original(source, sighting, place) == Moved(place)
        assert tree(real) == {b"talk.wav": SOUND}
        assert os.stat(place).st_ino != sighting.ino


def test_an_archive_that_is_the_inbox_loses_nothing(room: bytes) -> None:
    """An archive that is the watched folder through another mount is refused, the file stays."""
    inbox, archive = folders(room, b"in", b"archive")
    source, sighting, place = sides(room, archive)
    with mounted(archive, "--bind", os.fsdecode(inbox)), pytest.raises(FileExistsError):
        move_original(source, sighting, place)
    assert tree(inbox) == {b"talk.wav": SOUND}


def test_a_copy_that_reads_back_wrong_is_no_copy(
    room: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the disk does not keep the bytes, the copy goes, the original stays."""
    with elsewhere(room) as far:
        source, sighting, place = sides(room, far)
        real_write = files.write_all
        monkeypatch.setattr(files, "write_all", lambda out, block: real_write(out, block[::-1]))
        with pytest.raises(Transient, match="other bytes"):
            move_original(source, sighting, place)
        assert tree(far) == {}
        assert tree(os.path.join(room, b"in")) == {b"talk.wav": SOUND}


def test_a_full_archive_leaves_the_original(room: bytes) -> None:
    """Without room for the copy nothing is left of it, and the original stays where it is."""
    (archive,) = folders(room, b"archive")
    with small_disk(archive, 8):
        source, sighting, place = sides(room, archive)
        with pytest.raises(NoSpace, match="no room"):
            move_original(source, sighting, place)
        assert tree(archive) == {}
        assert tree(os.path.join(room, b"in")) == {b"talk.wav": SOUND}


def test_planted_temporary_names_are_harmless(room: bytes) -> None:
    """A link, pipe or folder at the copy's temporary name is neither followed nor waited for."""
    with elsewhere(room) as far:
        victim = make(os.path.join(room, b"victim"), b"keep")
        mark = hashlib.sha1(b"talk.wav").hexdigest()[:16].encode()
        part = os.path.join(far, b".penstock-%s.part" % mark)
        plants: list[Callable[[], object]] = [
            lambda: os.symlink(victim, part),
            lambda: os.link(make(os.path.join(far, b"hard"), b"keep"), part),
            lambda: os.mkfifo(part),
            lambda: os.mkdir(part),
        ]
        for plant in plants:
            source, sighting, place = sides(room, far)
            plant()
            assert move_original(source, sighting, place) == Moved(place)
            assert tree(far).pop(b"talk.wav") == SOUND
            os.unlink(place)
        assert tree(room) == {b"victim": b"keep"}
        assert tree(far) == {b"hard": b"keep"}


def test_an_unreadable_original_moves(room: bytes) -> None:
    """A file that the service may not read still gets to the failed folder of the same disk."""
    source, sighting, place = sides(room, room)
    os.chmod(source, 0)
    for seen_on_share in (False, True):
        look = msgspec.structs.replace(sighting, ino=0) if seen_on_share else sighting
        assert move_original(source, look, place) == Moved(place)
        os.rename(place, source)


def test_a_folder_without_rights_is_said_so(room: bytes) -> None:
    """A watched folder that the service may not change is Transient, and the original stays."""
    (archive,) = folders(room, b"archive")
    source, sighting, place = sides(room, archive)
    inbox = os.path.dirname(source)
    os.chmod(inbox, 0o555)
    try:
        if os.access(inbox, os.W_OK):
            pytest.skip("this user may do everything")
        with pytest.raises(Transient, match="permission denied"):
            move_original(source, sighting, place)
        with pytest.raises(Transient, match="permission denied"):
            delete_original(source, sighting)
    finally:
        os.chmod(inbox, 0o755)
    assert tree(inbox) == {b"talk.wav": SOUND}
    assert tree(archive) == {}


def test_both_forms_of_a_ticket_are_found(room: bytes) -> None:
    """A ticket is named after the whole file name or its stem; the whole name comes first."""
    source = make(os.path.join(room, b"talk.wav"))
    assert find_ticket(source) is None
    short = make(os.path.join(room, b"talk.penstock.toml"))
    assert find_ticket(source) == short
    whole = make(os.path.join(room, b"talk.wav.penstock.toml"))
    assert find_ticket(source) == whole
    os.unlink(whole)
    os.symlink(short, whole)
    os.unlink(short)
    os.mkfifo(short)
    assert find_ticket(source) is None
    assert find_ticket(os.path.join(room, b"x" * 255)) is None


@pytest.mark.parametrize("across", [False, True])
def test_a_ticket_follows_its_original(room: bytes, across: bool) -> None:
    """The ticket lands beside the moved original under its name, and overwrites nothing."""
    with elsewhere(room) as far:
        (archive,) = folders(far if across else room, b"archive")
        place = make(os.path.join(archive, b"talk (2).wav"))
        ticket = make(os.path.join(room, b"talk.penstock.toml"), b"a = 1")
        moved = move_ticket(ticket, place)
        assert moved == place + b".penstock.toml"
        assert tree(archive)[b"talk (2).wav.penstock.toml"] == b"a = 1"
        assert not os.path.exists(ticket)
        make(ticket, b"a = 2")
        assert move_ticket(ticket, place) is None
        assert tree(archive)[b"talk (2).wav.penstock.toml"] == b"a = 1"
        assert os.path.exists(ticket)
        assert move_ticket(os.path.join(room, b"none"), place) is None
