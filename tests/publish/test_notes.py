"""FAILED.txt: plain words for people, at a name that never costs anybody a file."""

import os

import pytest

from daemon.publish.notes import drop_note, failed_note, note_path, put_note
from daemon.values import Job, Sighting, State
from pipeline.core.contract import Fault
from pipeline.core.errors import NoSpace, Transient
from tests.publish.crash import tree
from tests.publish.mounts import small_disk
from tests.publish.samples import NAMES, folders, make, marks


def job(name: bytes = b"sub/talk.wav", fault: Fault | None = Fault.BAD_INPUT) -> Job:
    return Job(
        id=12, watch="talks", root=b"/in", sighting=Sighting(name=name, size=3_400_000, mtime_ns=1),
        recipe="transcribe", options={}, priority=0, state=State.FAILING, admitted_at=0.0,
        updated_at=0.0, attempt=3, fault=fault, reason="the sound ends in the middle",
        hint="copy it again.",
    )  # fmt: skip


@pytest.mark.parametrize("fault", [*Fault, None])
def test_a_note_says_what_happened_and_what_to_do(fault: Fault | None) -> None:
    """For every fault the note has the file, the reason, a next step and how to try again."""
    note = failed_note(job(fault=fault), 1_700_000_000.0)
    assert "sub/talk.wav" in note
    assert "the sound ends in the middle" in note
    assert "copy it again.\n" in note
    assert "Move the file back" in note
    assert "penstock jobs retry 12" in note
    last = note.rstrip("\n").splitlines()[-1]
    assert "000012" in last
    assert (fault.value if fault else "unknown") in last
    assert max(map(len, note.splitlines())) <= 100


@pytest.mark.parametrize("name", NAMES)
def test_no_name_forges_a_line(name: bytes) -> None:
    """A note has the same number of lines whatever the file is called, and is always text."""
    plain, odd = failed_note(job(), 0.0), failed_note(job(name), 0.0)
    assert len(odd.splitlines()) == len(plain.splitlines())
    odd.encode("utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_note_comes_and_goes_beside_any_name(room: bytes, name: bytes) -> None:
    """For every name the note is written beside the original, replaced, and removed."""
    place = make(os.path.join(room, name))
    text = failed_note(job(name), 0.0)
    path = put_note(place, text, root=room)
    assert path == note_path(place)
    assert path.endswith(b".FAILED.txt")
    assert len(os.path.basename(path)) <= 255
    newer = text.replace("12", "13")
    assert put_note(place, newer) == path
    assert tree(room) == {name: b"sound", os.path.relpath(path, room): newer.encode()}
    assert drop_note(place, root=room)
    assert not drop_note(place)
    assert tree(room) == {name: b"sound"}


@pytest.mark.parametrize("plant", ["file", "link", "pipe", "folder"])
def test_a_note_replaces_only_notes(room: bytes, plant: str) -> None:
    """What has the note's name and is none of ours stays, and the note gets a number."""
    failed, away = folders(room, b"failed", b"away")
    victim = make(os.path.join(away, b"victim"), failed_note(job(), 0.0).encode())
    place = make(os.path.join(failed, b"talk.wav"))
    path = note_path(place)
    if plant == "file":
        make(path, b"my own words")
    elif plant == "link":
        os.symlink(victim, path)
    elif plant == "pipe":
        os.mkfifo(path)
    else:
        os.mkdir(path)
    before = marks(path)
    assert put_note(place, failed_note(job(), 0.0)) == os.path.join(
        failed, b"talk (2).wav.FAILED.txt"
    )
    assert not drop_note(place)
    assert marks(path) == before
    assert list(tree(away)) == [b"victim"]


def test_a_linked_folder_is_not_entered(room: bytes) -> None:
    """With the failed folder given, no note is written behind a link below it."""
    failed, away = folders(room, b"failed", b"away")
    os.symlink(away, os.path.join(failed, b"sub"))
    with pytest.raises(Transient):
        put_note(os.path.join(failed, b"sub", b"talk.wav"), "x", root=failed)
    assert not drop_note(os.path.join(failed, b"sub", b"talk.wav"), root=failed)
    assert tree(away) == {}


def test_a_note_without_room_is_said_so(room: bytes) -> None:
    """A full failed folder is NoSpace, a missing one Transient; neither leaves a part."""
    (failed,) = folders(room, b"failed")
    place = os.path.join(failed, b"talk.wav")
    with small_disk(failed, 8):
        with pytest.raises(NoSpace, match="note"):
            put_note(place, "x" * 100_000)
        assert tree(failed) == {}
    os.rmdir(failed)
    with pytest.raises(Transient, match="not there"):
        put_note(place, "x")
