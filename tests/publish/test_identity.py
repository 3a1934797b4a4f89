"""A file is removed only if it is the one that was processed and its copy is another file."""

import os

import pytest

from daemon.publish.identity import come_back, hidden, leave
from pipeline.core.errors import Transient
from tests.publish.crash import tree
from tests.publish.samples import make, seen


def test_a_copy_that_goes_with_its_original_was_none(room: bytes) -> None:
    """If the kept copy disappears with the original, both were one file: it is given back."""
    source = make(os.path.join(room, b"talk.wav"))
    with pytest.raises(Transient, match="one file"):
        leave(source, seen(room, b"talk.wav"), kept=source)
    assert tree(room) == {b"talk.wav": b"sound"}


def test_a_stranger_in_the_way_is_said_so(room: bytes) -> None:
    """A folder planted at the hidden name stops the removal and is not touched itself."""
    source = make(os.path.join(room, b"talk.wav"))
    sighting = seen(room, b"talk.wav")
    os.mkdir(hidden(source))
    come_back(source)
    with pytest.raises(Transient, match="in the way"):
        leave(source, sighting)
    assert os.path.isdir(hidden(source))
    assert tree(room) == {b"talk.wav": b"sound"}


def test_a_cut_short_removal_beside_a_newer_file_loses_neither(room: bytes) -> None:
    """If a newer file took the name after a crash, the hidden one comes back under a number."""
    source = make(os.path.join(room, b"talk.wav"), b"old")
    os.rename(source, hidden(source))
    make(source, b"new")
    come_back(source)
    assert tree(room) == {b"talk.wav": b"new", b"talk (2).wav": b"old"}
