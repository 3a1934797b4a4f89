"""Receipts: what people on the share can read, and that nothing else is ever touched."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.publish.receipts import Receipt, drop, put, receipt_path, render
from pipeline.core.files import temp_beside
from tests.publish.crash import tree
from tests.publish.mounts import mounted, small_disk
from tests.publish.samples import NAMES, folders, make

DATA = render(Receipt(name=b"talk.wav", state="queued", updated=0.0, message="waits", position=3))


def test_a_receipt_reads_well() -> None:
    """A receipt is ASCII JSON with a schema, the state, the place in the queue and the time."""
    receipt = Receipt(
        name=b"talk.wav", state="claimed", updated=1_700_000_000.4, message="works on it",
        stage="transcribe", percent=41.26, eta_seconds=80.7,
    )  # fmt: skip
    assert json.loads(render(receipt).decode("ascii")) == {
        "schema": "penstock-receipt-1",
        "file": "talk.wav",
        "state": "claimed",
        "position": None,
        "stage": "transcribe",
        "percent": 41.3,
        "eta_seconds": 81,
        "message": "works on it",
        "updated": "2023-11-14T22:13:20+00:00",
    }


@given(name=st.binary(), message=st.text())
def test_no_name_breaks_a_receipt(name: bytes, message: str) -> None:
    """Whatever a file is called, its receipt is ASCII JSON of single harmless lines."""
    receipt = render(Receipt(name=name, state="queued", updated=0.0, message=message))
    document = json.loads(receipt.decode("ascii"))
    assert document["file"].isprintable()
    assert document["message"].isprintable()


@pytest.mark.parametrize("name", NAMES)
def test_a_receipt_comes_and_goes_beside_any_name(room: bytes, name: bytes) -> None:
    """For every name the receipt is written beside the drop, written again, and removed."""
    source = make(os.path.join(room, name))
    assert put(source, b"{}" + DATA, root=room)
    os.unlink(receipt_path(source))
    assert put(source, DATA, root=room)
    assert put(source, DATA)
    path = receipt_path(source)
    assert os.path.dirname(path) == os.path.dirname(source)
    assert path.endswith(b".penstock.json")
    assert len(os.path.basename(path)) <= 255
    assert drop(source, root=room)
    assert not drop(source)
    assert tree(room) == {name: b"sound"}


def test_long_names_keep_receipts_of_their_own() -> None:
    """Two names that differ only at their cut end have two receipts."""
    one, two = b"/in/" + b"x" * 250 + b"1.wav", b"/in/" + b"x" * 250 + b"2.wav"
    assert receipt_path(one) != receipt_path(two)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"\xff", b'{"schema":"other"}', b'{"schema":1}']
)
def test_a_file_of_somebody_else_stays(room: bytes, data: bytes) -> None:
    """A file at the receipt's name that is no receipt of ours is neither replaced nor removed."""
    source = os.path.join(room, b"talk.wav")
    path = make(receipt_path(source), data)
    assert not put(source, DATA)
    assert not drop(source)
    assert tree(room) == {os.path.basename(path): data}


@pytest.mark.parametrize("plant", ["link", "link to ours", "dangling", "pipe", "folder"])
def test_what_is_planted_at_the_name_is_not_touched(room: bytes, plant: str) -> None:
    """A link, pipe or folder at the receipt's name is not followed, waited for or replaced."""
    inbox, away = folders(room, b"in", b"away")
    source = os.path.join(inbox, b"talk.wav")
    path = receipt_path(source)
    victim = make(os.path.join(away, b"victim"), DATA if plant == "link to ours" else b"keep")
    if plant == "pipe":
        os.mkfifo(path)
    elif plant == "folder":
        os.mkdir(path)
    else:
        os.symlink(b"nowhere" if plant == "dangling" else victim, path)
    before, kept = os.lstat(path), tree(away)
    assert not put(source, DATA)
    assert not drop(source)
    assert os.lstat(path).st_ino == before.st_ino
    assert tree(away) == kept


@pytest.mark.parametrize("plant", ["link", "hard link", "pipe", "folder"])
def test_what_is_planted_at_the_temporary_name_is_not_written_to(room: bytes, plant: str) -> None:
    """A link, pipe or folder at the temporary name is not written through and blocks nothing."""
    inbox, away = folders(room, b"in", b"away")
    source = os.path.join(inbox, b"talk.wav")
    part = temp_beside(receipt_path(source))
    victim = make(os.path.join(away, b"victim"), b"keep")
    if plant == "link":
        os.symlink(victim, part)
    elif plant == "hard link":
        os.link(victim, part)
    elif plant == "pipe":
        os.mkfifo(part)
    else:
        os.mkdir(part)
    assert put(source, DATA)
    assert tree(away) == {b"victim": b"keep"}
    assert tree(inbox) == {os.path.basename(receipt_path(source)): DATA}


def test_a_linked_subfolder_is_not_entered(room: bytes) -> None:
    """With the watched folder given, no receipt is written or removed behind a link below it."""
    inbox, away = folders(room, b"in", b"away")
    os.symlink(away, os.path.join(inbox, b"sub"))
    source = os.path.join(inbox, b"sub", b"talk.wav")
    assert not put(source, DATA, root=inbox)
    assert tree(away) == {}
    make(receipt_path(os.path.join(away, b"talk.wav")), DATA)
    assert not drop(source, root=inbox)
    assert len(tree(away)) == 1


def test_a_folder_that_refuses_is_skipped(room: bytes) -> None:
    """A folder that is gone, full or read-only costs the receipt and nothing else."""
    assert not put(os.path.join(room, b"gone", b"talk.wav"), DATA)
    assert not drop(os.path.join(room, b"gone", b"talk.wav"))
    (inbox,) = folders(room, b"in")
    source = os.path.join(inbox, b"talk.wav")
    with small_disk(inbox, 8):
        assert not put(source, bytes(100_000))
        assert tree(inbox) == {}
        assert put(source, DATA)
    with mounted(inbox, "-t", "tmpfs", "-o", "ro", "none"):
        assert not put(source, DATA)
        assert not drop(source)
