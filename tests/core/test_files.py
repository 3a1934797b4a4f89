"""Whole-or-absent writes, renames that never overwrite, opens that follow no link."""

import ctypes
import errno
import hashlib
import io
import os
import socket
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import files
from pipeline.core.errors import BadInput, NoSpace, Transient
from pipeline.core.files import (
    copy_whole,
    digest_of,
    free_bytes,
    make_folders,
    numbered,
    open_beneath,
    remove_if_there,
    rename_new,
    sync_file,
    sync_folder,
    temp_beside,
    write_all,
    write_whole,
)
from tests.publish.mounts import small_disk
from tests.publish.samples import NAMES, elsewhere, make


class PlainLibc:
    """A file system that does not know RENAME_NOREPLACE, as NFS."""

    def renameat2(self, *_args: object) -> int:
        ctypes.set_errno(errno.EINVAL)
        return -1


@pytest.fixture(params=["modern", "no flag", "no flag, no links"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the file system can do."""
    kind: str = request.param
    if kind != "modern":
        monkeypatch.setattr(files, "_libc", PlainLibc())
    if kind == "no flag, no links":

        def refuse(*_args: object, **_named: object) -> None:
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", refuse)
    return kind


def test_rename_new_moves_files_and_folders(room: bytes, disk: str) -> None:
    """A file and a full folder get their new names, on any kind of file system."""
    one, two = os.path.join(room, b"one"), os.path.join(room, b"two")
    make(one, b"1")
    rename_new(one, two)
    assert os.listdir(room) == [b"two"]
    make(os.path.join(room, b"folder", b"x"))
    rename_new(os.path.join(room, b"folder"), one)
    assert sorted(os.listdir(room)) == [b"one", b"two"]
    assert os.listdir(one) == [b"x"]


def test_rename_new_never_overwrites(room: bytes, disk: str) -> None:
    """A file, link, folder or pipe at the target stays, and the source stays too."""
    source = make(os.path.join(room, b"source"), b"new")
    away = make(os.path.join(room, b"away"), b"keep")
    target = os.path.join(room, b"target")
    plants: list[Callable[[], object]] = [
        lambda: make(target, b"old"),
        lambda: os.symlink(away, target),
        lambda: os.symlink(b"nowhere", target),
        lambda: os.link(source, target) if disk != "no flag, no links" else make(target),
        lambda: os.mkfifo(target),
    ]
    for plant in plants:
        plant()
        before = os.lstat(target)
        with pytest.raises(FileExistsError):
            rename_new(source, target)
        assert os.lstat(target).st_ino == before.st_ino
        assert digest_of(source) == hashlib.sha256(b"new").hexdigest()
        os.unlink(target)
    assert digest_of(away) == hashlib.sha256(b"keep").hexdigest()


def test_rename_new_does_not_follow_its_source(room: bytes, disk: str) -> None:
    """A link is renamed as a link; what it points to does not move."""
    real = make(os.path.join(room, b"real"))
    link = os.path.join(room, b"link")
    os.symlink(real, link)
    rename_new(link, os.path.join(room, b"new"))
    assert os.readlink(os.path.join(room, b"new")) == real
    assert not os.path.lexists(link)


def test_rename_new_says_another_disk(room: bytes, disk: str) -> None:
    """Across file systems the error is EXDEV, and nothing is left there."""
    with elsewhere(room) as far:
        source = make(os.path.join(room, b"source"))
        with pytest.raises(OSError) as caught:
            rename_new(source, os.path.join(far, b"target"))
        assert caught.value.errno == errno.EXDEV
        assert os.listdir(far) == []
        assert os.path.exists(source)


@pytest.mark.parametrize("name", [name for name in NAMES if b"/" not in name])
@pytest.mark.parametrize("durable", [False, True])
def test_write_whole_takes_any_name(room: bytes, name: bytes, durable: bool) -> None:
    """Every name gets its bytes, new ones replace old ones, and no temporary file is left."""
    path = os.path.join(room, name)
    write_whole(path, b"one", durable=durable)
    write_whole(path, b"two", durable=durable)
    assert os.listdir(room) == [name]
    assert digest_of(path) == hashlib.sha256(b"two").hexdigest()


def test_write_whole_replaces_a_link_itself(room: bytes) -> None:
    """A link at the final name is replaced; what it points to keeps its bytes."""
    real = make(os.path.join(room, b"real"), b"keep")
    link = os.path.join(room, b"link")
    os.symlink(real, link)
    write_whole(link, b"new")
    assert not os.path.islink(link)
    assert digest_of(real) == hashlib.sha256(b"keep").hexdigest()


@pytest.mark.parametrize("plant", ["link", "hard link", "pipe", "folder", "old part"])
def test_temporary_names_can_be_planted_by_anybody(room: bytes, plant: str) -> None:
    """What lies at the temporary name is never written to and never stops the write."""
    real = make(os.path.join(room, b"real"), b"keep")
    path = os.path.join(room, b"path")
    part = temp_beside(path)
    if plant == "link":
        os.symlink(real, part)
    elif plant == "hard link":
        os.link(real, part)
    elif plant == "pipe":
        os.mkfifo(part)
    elif plant == "folder":
        os.mkdir(part)
    else:
        make(part, b"a longer text than the new one")
    write_whole(path, b"new")
    assert digest_of(path) == hashlib.sha256(b"new").hexdigest()
    assert digest_of(real) == hashlib.sha256(b"keep").hexdigest()
    assert os.path.lexists(part) == (plant == "folder")


def test_a_temporary_name_planted_in_time_is_refused(
    room: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link planted right after the old part was removed is not written through either."""
    real = make(os.path.join(room, b"real"), b"keep")
    unlink = os.unlink

    def unlink_and_plant(path: bytes) -> None:
        unlink(path)
        os.symlink(real, path)

    path = os.path.join(room, b"path")
    make(temp_beside(path))
    monkeypatch.setattr(os, "unlink", unlink_and_plant)
    with pytest.raises(FileExistsError):
        write_whole(path, b"new")
    assert digest_of(real) == hashlib.sha256(b"keep").hexdigest()


def test_a_failed_write_leaves_the_old_bytes(room: bytes) -> None:
    """On a full disk the old file stays whole and the part is removed."""
    path = os.path.join(room, b"path")
    with small_disk(room, 16):
        write_whole(path, b"old")
        with pytest.raises(OSError):
            write_whole(path, bytes(100_000))
        with pytest.raises(NoSpace):
            copy_whole(io.BytesIO(bytes(100_000)), os.path.join(room, b"copy"))
        assert os.listdir(room) == [b"path"]
        assert digest_of(path) == hashlib.sha256(b"old").hexdigest()


def test_copy_whole_copies_and_dates(room: bytes) -> None:
    """A copy has the bytes, the digest and the date asked for, and progress is told."""
    data, told = os.urandom(10_000_000), list[int]()
    target = os.path.join(room, b"copy")
    digest = copy_whole(io.BytesIO(data), target, turn=told.append, mtime_ns=1_234_567_890_123)
    assert digest == hashlib.sha256(data).hexdigest() == digest_of(target)
    assert os.stat(target).st_mtime_ns == 1_234_567_890_123
    assert told[-1] == len(data)
    assert told == sorted(told)
    assert os.listdir(room) == [b"copy"]


def test_copy_whole_never_overwrites(room: bytes) -> None:
    """A copy onto a name that is there is FileExistsError, also for a dangling link."""
    target = os.path.join(room, b"copy")
    os.symlink(b"nowhere", target)
    with pytest.raises(FileExistsError):
        copy_whole(io.BytesIO(b"x"), target)
    assert os.listdir(room) == [b"copy"]
    assert os.readlink(target) == b"nowhere"


def test_a_copy_that_is_stopped_leaves_nothing(room: bytes) -> None:
    """If the turn raises, neither the copy nor its part is left."""

    def stop(_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_whole(io.BytesIO(b"x"), os.path.join(room, b"copy"), turn=stop)
    assert os.listdir(room) == []


def test_write_all_goes_on_after_a_short_write() -> None:
    """A raw file that takes only some bytes at a time gets them all in the end."""

    class Slow(io.BytesIO):
        def write(self, block: object) -> int:
            return super().write(bytes(memoryview(block)[:3]))  # type: ignore[arg-type]

    out = Slow()
    write_all(out, b"0123456789")
    assert out.getvalue() == b"0123456789"


@given(
    name=st.binary(min_size=1, max_size=255).filter(lambda name: b"/" not in name and name != b"."),
    number=st.integers(1, 10**6),
    folder=st.booleans(),
)
def test_a_numbered_name_is_a_name(name: bytes, number: int, folder: bool) -> None:
    """A numbered name fits a directory entry, shows its number, and keeps a usual suffix."""
    made = numbered(b"sub/" + name, number, folder=folder)
    head, tail = os.path.split(made)
    assert head == b"sub"
    assert 0 < len(tail) <= 255
    suffix = b"" if folder else os.path.splitext(name)[1]
    if number == 1:
        assert tail == name
    else:
        assert b" (%d)" % number in tail
        assert tail != name
        assert len(suffix) > 32 or tail.endswith(suffix)


def test_numbers_stand_before_the_suffix() -> None:
    """Files are numbered before their suffix, folders at their end; characters stay whole."""
    assert numbered(b"a/talk.wav", 2, folder=False) == b"a/talk (2).wav"
    assert numbered(b"talk v1.0", 3, folder=True) == b"talk v1.0 (3)"
    assert numbered(b".wav", 2, folder=False) == b".wav (2)"
    numbered("ä".encode() * 127, 2, folder=True).decode("utf-8")


def test_folders_are_made_with_their_parents(room: bytes) -> None:
    """Missing parents are made, being there already is fine, a file in the way is not."""
    path = os.path.join(room, b"a", b"b c", b"\xff")
    make_folders(path)
    make_folders(path + b"/")
    assert os.path.isdir(path)
    make(os.path.join(room, b"file"))
    os.symlink(b"nowhere", os.path.join(room, b"dangling"))
    for bad in (b"file", b"file/below", b"dangling"):
        with pytest.raises(OSError):
            make_folders(os.path.join(room, bad))


@pytest.mark.parametrize("name", NAMES)
def test_drops_open_under_any_name(room: bytes, name: bytes) -> None:
    """A regular file below the root opens, whatever it is called."""
    make(os.path.join(room, name), b"sound")
    with open_beneath(room, name) as file:
        assert file.read() == b"sound"


def test_nothing_but_a_regular_file_opens(room: bytes) -> None:
    """Links, pipes, sockets, folders and ways out of the root are BadInput, and none blocks."""
    root = os.path.join(room, b"in")
    secret = make(os.path.join(room, b"secret"), b"secret")
    os.mkdir(root)
    os.symlink(secret, os.path.join(root, b"link"))
    os.symlink(room, os.path.join(root, b"linked"))
    os.mkfifo(os.path.join(root, b"pipe"))
    os.mkdir(os.path.join(root, b"folder"))
    make(os.path.join(root, b"file"))
    here = os.open(root, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(b"/proc/self/fd/%d/socket" % here)
    os.close(here)
    for name in (
        b"link", b"linked/secret", b"pipe", b"folder", b"socket", b"../secret", b"file/below",
        b"folder/../file", b"", b".", b"/", b"a\0b", b"linked/in/file",
    ):  # fmt: skip
        with pytest.raises(BadInput):
            open_beneath(root, name)


def test_a_missing_drop_is_transient(room: bytes) -> None:
    """A file, a subfolder or a root that is gone may come back."""
    for root, name in ((room, b"gone"), (room, b"sub/gone"), (os.path.join(room, b"no"), b"x")):
        with pytest.raises(Transient):
            open_beneath(root, name)


def test_reading_never_waits_for_a_pipe(room: bytes) -> None:
    """A pipe at a file's name is read as empty or refused instead of blocking."""
    path = os.path.join(room, b"pipe")
    os.mkfifo(path)
    assert digest_of(path) == hashlib.sha256(b"").hexdigest()
    with pytest.raises(OSError):
        sync_file(path)


def test_small_helpers(room: bytes) -> None:
    """Syncing, removing what may be gone and asking for room work on real paths."""
    path = make(os.path.join(room, b"file"))
    sync_file(path)
    sync_folder(room)
    remove_if_there(path)
    remove_if_there(path)
    assert free_bytes(room) > 0
    os.symlink(room, path)
    with pytest.raises(OSError):
        sync_file(path)
