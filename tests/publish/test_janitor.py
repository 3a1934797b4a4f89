"""The janitor removes what kills left behind, and nothing else."""

import os

from daemon.publish.janitor import FOREIGN_DAYS, sweep_parts, sweep_scratch, sweep_staging
from tests.publish.crash import tree
from tests.publish.samples import UID, folders, make

DAY = 86400.0


def now_of(path: bytes) -> float:
    return os.stat(path).st_ctime


def test_only_our_ended_staging_goes(room: bytes) -> None:
    """Staging of this ledger goes unless its job is open; everything else in there stays."""
    shelf = os.path.join(room, b".penstock")
    make(os.path.join(shelf, b"000001-01234567", b"deep", b"a.srt"))
    make(os.path.join(shelf, b"000002-01234567", b"a.srt"))
    make(os.path.join(shelf, b"000001-fedcba98", b"a.srt"))
    make(os.path.join(shelf, b"what is this", b"a.srt"))
    make(os.path.join(room, b"talk", b"talk.srt"))
    gone = sweep_staging(room, UID, {"000002"}, now=now_of(room))
    assert gone == [os.path.join(shelf, b"000001-01234567")]
    assert set(tree(room)) == {
        b".penstock/000002-01234567/a.srt", b".penstock/000001-fedcba98/a.srt",
        b".penstock/what is this/a.srt", b"talk/talk.srt",
    }  # fmt: skip


def test_abandoned_staging_of_others_goes_in_the_end(room: bytes) -> None:
    """Another ledger's staging goes after a week without a change, not before."""
    path = os.path.join(room, b".penstock", b"000001-fedcba98")
    inner = make(os.path.join(path, b"a.srt"))
    late = now_of(inner) + FOREIGN_DAYS * DAY
    os.utime(path, (0, 0))
    assert sweep_staging(room, UID, (), now=late - 60) == []
    assert sweep_staging(room, UID, (), now=late + 60) == [path]
    assert os.listdir(room) == []


def test_links_in_staging_are_not_followed(room: bytes) -> None:
    """A link in or in place of a staging folder goes; what it points to stays."""
    outbox, away = folders(room, b"out", b"away")
    make(os.path.join(away, b"victim"))
    shelf = os.path.join(outbox, b".penstock")
    make(os.path.join(shelf, b"000001-01234567", b"a.srt"))
    os.symlink(away, os.path.join(shelf, b"000001-01234567", b"link"))
    os.symlink(away, os.path.join(shelf, b"000003-01234567"))
    assert len(sweep_staging(outbox, UID, ())) == 2
    assert os.listdir(outbox) == []
    os.symlink(away, shelf)
    make(os.path.join(away, b"000001-01234567", b"a.srt"))
    assert sweep_staging(outbox, UID, ()) == []
    assert set(tree(away)) == {b"victim", b"000001-01234567/a.srt"}


def test_an_outbox_without_staging_is_fine(room: bytes) -> None:
    """Nothing to sweep is no error, nor is an outbox that is gone."""
    assert sweep_staging(room, UID, ()) == []
    assert sweep_staging(os.path.join(room, b"gone"), UID, ()) == []
    folders(room, b".penstock")
    assert sweep_staging(room, UID, ()) == []
    assert os.listdir(room) == []


def test_scratch_of_ended_jobs_goes(room: bytes) -> None:
    """Scratch folders stay for open jobs and go for all others; links are not followed."""
    scratch, away = folders(room, b"scratch", b"away")
    make(os.path.join(away, b"victim"))
    make(os.path.join(scratch, b"000001", b"audio.s16"))
    make(os.path.join(scratch, b"000002", b"audio.s16"))
    os.symlink(away, os.path.join(scratch, b"000003"))
    gone = sweep_scratch(scratch, {"000002"})
    assert gone == [os.path.join(scratch, b"000001"), os.path.join(scratch, b"000003")]
    assert os.listdir(scratch) == [b"000002"]
    assert os.listdir(away) == [b"victim"]
    assert sweep_scratch(os.path.join(room, b"gone"), ()) == []


def test_old_parts_go(room: bytes) -> None:
    """Temporary files of ours go when they are old, by the date that nobody can set."""
    part = make(os.path.join(room, b".penstock-0123456789abcdef.part"))
    os.utime(part, (0, 0))  # a copy dated like its original
    make(os.path.join(room, b".penstock-0123456789abcdef.going"))
    make(os.path.join(room, b"talk.part"))
    make(os.path.join(room, b"sub", b".penstock-0123456789abcdef.part"))
    os.symlink(b"/etc/passwd", os.path.join(room, b".penstock-00000000000000ff.part"))
    kept = set(tree(room)) - {os.path.basename(part)}
    assert sweep_parts(room, 3600.0, now_of(part) + 3000) == []
    assert sweep_parts(room, 3600.0, now_of(part) + 4000) == [part]
    assert set(tree(room)) == kept
    assert sweep_parts(os.path.join(room, b"gone"), 0.0, 0.0) == []
