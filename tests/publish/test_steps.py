"""Staging, its check, and the one rename that publishes."""

import errno
import os
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.publish.steps import (
    NotStaged,
    choose_target,
    is_ours,
    publish,
    result_name,
    staging_of,
    verify_outputs,
    write_report,
)
from pipeline.core.contract import Output
from pipeline.core.errors import NoSpace, Transient
from tests.publish.crash import effects, failing_at, tree
from tests.publish.mounts import mounted, small_disk
from tests.publish.samples import NAMES, UID, elsewhere, folders, make

OUTPUTS = [Output(name=b"talk.srt", size=2), Output(name=b"talk.txt", size=5)]


def staged(outbox: bytes, label: str = "000007") -> bytes:
    staging = staging_of(outbox, label, UID)
    make(os.path.join(staging, b"talk.srt"), b"1\n")
    make(os.path.join(staging, b"talk.txt"), b"hello")
    return staging


@given(
    name=st.lists(
        st.binary(max_size=255).map(lambda part: part.replace(b"\0", b"")), min_size=1
    ).map(b"/".join)
)
@example(name=b".wav")
@example(name=b"...")
@example(name=b"a.wav\n")
@example(name=b"../../etc/passwd")
@example(name=b".penstock/x.wav")
@example(name=b"talk. .wav")
def test_a_result_name_is_a_plain_visible_name(name: bytes) -> None:
    """Whatever the drop is called, each part of its result's name is visible, plain and fits."""
    parts = result_name(name).split(b"/")
    assert len(parts) <= name.count(b"/") + 1
    for part in parts:
        assert 0 < len(part) <= 255
        assert not part.startswith(b".")
        assert not part.endswith((b".", b" "))
        assert not any(byte < 32 or byte == 127 for byte in part)


@pytest.mark.parametrize(
    ("name", "result"),
    [
        (b"talk.wav", b"talk"),
        (b"sub/a b/talk.wav", b"sub/a b/talk"),
        (b".wav", b"wav"),
        (b"talk", b"talk"),
        (b"talk.tar.gz", b"talk.tar"),
        (b"Dr. Smith on trains", b"Dr. Smith on trains"),
        (b"bad\xff.wav", b"bad\xff"),
        (b"-y.wav", b"-y"),
        (b"x" * 255, b"x" * 255),
    ],
)
def test_a_result_is_called_like_its_drop(name: bytes, result: bytes) -> None:
    """People find the result under the drop's name without its suffix."""
    assert result_name(name) == result


@pytest.mark.parametrize("name", NAMES)
def test_a_result_is_published_under_any_name(room: bytes, name: bytes) -> None:
    """Every name that a share can hold gets its result, with the report in it."""
    staging = staged(room)
    target = choose_target(room, result_name(name), ())
    verify_outputs(staging, OUTPUTS)
    write_report(staging, os.path.basename(target), b'{"ledger":"%s","job":7}' % UID.encode())
    publish(staging, room, target)
    assert len(os.listdir(os.path.join(room, target))) == 3
    assert is_ours(room, target, UID, 7)
    assert os.listdir(os.path.join(room, b".penstock")) == []


def test_verify_removes_what_does_not_belong(room: bytes) -> None:
    """Only the outputs stay in staging: files, folders and links of other names go."""
    staging = staged(room)
    secret = make(os.path.join(room, b"secret"), b"secret")
    make(os.path.join(staging, b"cache", b"deep"), b"x")
    os.symlink(secret, os.path.join(staging, b"link"))
    os.symlink(room, os.path.join(staging, b"folder link"))
    os.mkfifo(os.path.join(staging, b"pipe"))
    verify_outputs(staging, OUTPUTS)
    assert sorted(os.listdir(staging)) == [b"talk.srt", b"talk.txt"]
    assert tree(room)[b"secret"] == b"secret"


def cut(path: bytes) -> None:
    os.truncate(path, 1)


def empty(path: bytes) -> None:
    os.truncate(path, 0)


def link(path: bytes) -> None:
    os.rename(path, path + b".real")
    os.symlink(path + b".real", path)


def pipe(path: bytes) -> None:
    os.unlink(path)
    os.mkfifo(path)


def folder(path: bytes) -> None:
    os.unlink(path)
    os.mkdir(path)


@pytest.mark.parametrize("spoil", [cut, empty, os.unlink, link, pipe, folder])
def test_verify_refuses_what_is_not_whole(room: bytes, spoil: Callable[[bytes], None]) -> None:
    """An output that is missing, of another size or no regular file stops the publishing."""
    staging = staged(room)
    spoil(os.path.join(staging, b"talk.txt"))
    with pytest.raises(NotStaged, match=r"talk\.txt"):
        verify_outputs(staging, OUTPUTS)


def test_an_output_that_the_disk_refused_is_not_taken_later(room: bytes) -> None:
    """After a failed fsync the output is gone, for a second fsync would only seem to succeed."""
    staging = staged(room)
    around, _counted = failing_at(1, errno.EIO)
    with effects(around), pytest.raises(Transient):
        verify_outputs(staging, OUTPUTS)
    with pytest.raises(NotStaged):
        verify_outputs(staging, OUTPUTS)


def test_a_result_is_durable_before_it_counts(room: bytes) -> None:
    """A crash may come between rename and fsync, so a result is synced before it is ours."""
    make(os.path.join(room, b"talk", b"t.penstock.json"), b'{"ledger":"%s","job":7}' % UID.encode())
    around, _counted = failing_at(1, errno.EIO)
    with effects(around), pytest.raises(Transient):
        is_ours(room, b"talk", UID, 7)
    assert is_ours(room, b"talk", UID, 7)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"../x", b"/etc/passwd", b"a/b"])
def test_verify_refuses_names_that_lead_away(room: bytes, name: bytes) -> None:
    """An output's name is a name in the staging folder and nothing else."""
    with pytest.raises(NotStaged):
        verify_outputs(staged(room), [Output(name=name, size=1)])


def test_no_output_is_no_result(room: bytes) -> None:
    """A worker that finished without outputs, or with empty ones, published nothing."""
    staging = staged(room)
    with pytest.raises(NotStaged):
        verify_outputs(staging, [])
    empty(os.path.join(staging, b"talk.srt"))
    with pytest.raises(NotStaged):
        verify_outputs(staging, [Output(name=b"talk.srt", size=0)])


def test_staging_that_is_gone_is_said_so(room: bytes) -> None:
    """If somebody emptied the outbox, every step says that the work has to be done again."""
    staging = staging_of(room, "000007", UID)
    with pytest.raises(NotStaged):
        verify_outputs(staging, OUTPUTS)
    with pytest.raises(NotStaged):
        write_report(staging, b"talk", b"{}")
    with pytest.raises(NotStaged):
        publish(staging, room, b"talk")
    assert not os.path.exists(os.path.join(room, b"talk"))


@pytest.mark.parametrize("planted", ["file", "folder", "full folder", "link", "dangling link"])
def test_publish_never_overwrites(room: bytes, planted: str) -> None:
    """Whatever has the target's name stays as it is, and the result goes to the next name."""
    outbox, away = folders(room, b"out", b"away")
    target = os.path.join(outbox, b"talk")
    if planted == "file":
        make(target, b"mine")
    elif planted.endswith("link"):
        os.symlink(away if planted == "link" else b"nowhere", target)
    else:
        os.mkdir(target)
        if planted == "full folder":
            make(os.path.join(target, b"mine"))
    before = tree(outbox)
    staging = staged(outbox)
    with pytest.raises(FileExistsError):
        publish(staging, outbox, b"talk")
    second = choose_target(outbox, b"talk", ())
    assert second == b"talk (2)"
    publish(staging, outbox, second)
    assert tree(os.path.join(outbox, second)) == {b"talk.srt": b"1\n", b"talk.txt": b"hello"}
    assert before.items() <= tree(outbox).items()
    assert tree(away) == {}


def test_targets_of_open_jobs_are_left_out(room: bytes) -> None:
    """A name that another open job reserved is not given twice."""
    assert choose_target(room, b"sub/talk", {b"sub/talk", b"sub/talk (2)"}) == b"sub/talk (3)"


@pytest.mark.parametrize("planted", ["file", "link"])
def test_no_result_goes_through_a_planted_parent(room: bytes, planted: str) -> None:
    """A link or file at a subfolder's name is not entered; the subfolder gets another name."""
    outbox, away = folders(room, b"out", b"away")
    sub = os.path.join(outbox, b"sub")
    if planted == "file":
        make(sub)
    else:
        os.symlink(away, sub)
    staging = staged(outbox)
    with pytest.raises(FileExistsError):
        publish(staging, outbox, b"sub/talk")
    target = choose_target(outbox, b"sub/talk", ())
    assert target == b"sub (2)/talk"
    publish(staging, outbox, target)
    assert tree(away) == {}


def test_a_planted_shelf_is_not_entered(room: bytes) -> None:
    """A link in place of the hidden staging folder is not followed."""
    outbox, away = folders(room, b"out", b"away")
    make(os.path.join(away, b"000007-01234567", b"talk.srt"), b"1\n")
    os.symlink(away, os.path.join(outbox, b".penstock"))
    staging = staging_of(outbox, "000007", UID)
    with pytest.raises(NotStaged):
        verify_outputs(staging, [Output(name=b"talk.srt", size=2)])
    with pytest.raises(NotStaged):
        publish(staging, outbox, b"talk")
    assert os.listdir(away) == [b"000007-01234567"]


def test_a_report_is_not_written_through_a_link(room: bytes) -> None:
    """Links planted at the report's name or temporary name are replaced, not followed."""
    outbox, away = folders(room, b"out", b"away")
    victim = make(os.path.join(away, b"victim"), b"keep")
    staging = staged(outbox)
    os.symlink(victim, os.path.join(staging, b"talk.penstock.json"))
    write_report(staging, b"talk", b"{}")
    assert tree(staging)[b"talk.penstock.json"] == b"{}"
    assert tree(away) == {b"victim": b"keep"}


@pytest.mark.parametrize(
    "report",
    [b"", b"{}", b"[1]", b'{"ledger":"0123456789abcdef","job":8}', b'{"ledger":"other","job":7}',
     b'{"ledger":7,"job":"x"}', b"\xff"],
)  # fmt: skip
def test_a_stranger_is_not_ours(room: bytes, report: bytes) -> None:
    """Only a folder whose report names this ledger and this job counts as published."""
    make(os.path.join(room, b"talk", b"talk.penstock.json"), report)
    assert not is_ours(room, b"talk", UID, 7)


def test_a_link_to_a_report_is_not_ours(room: bytes) -> None:
    """Neither a linked folder nor a linked report proves anything, and a pipe blocks nobody."""
    real = make(
        os.path.join(room, b"real", b"r.penstock.json"), b'{"ledger":"%s","job":7}' % UID.encode()
    )
    os.symlink(os.path.join(room, b"real"), os.path.join(room, b"talk"))
    os.mkdir(os.path.join(room, b"other"))
    os.symlink(real, os.path.join(room, b"other", b"r.penstock.json"))
    os.mkfifo(os.path.join(room, b"other", b"s.penstock.json"))
    assert is_ours(room, b"real", UID, 7)
    assert not is_ours(room, b"talk", UID, 7)
    assert not is_ours(room, b"other", UID, 7)
    assert not is_ours(room, b"nothing", UID, 7)


def test_an_outbox_that_is_gone_is_not_made(room: bytes) -> None:
    """Nothing is written beneath the mount point of a share that is away."""
    outbox = os.path.join(room, b"share", b"out")
    with pytest.raises(Transient, match="not there"):
        publish(staged(room), outbox, b"talk")
    assert not os.path.exists(outbox)


def test_a_full_disk_is_no_space(room: bytes) -> None:
    """A full outbox is NoSpace, leaves no part, and the step passes when there is room again."""
    (outbox,) = folders(room, b"out")
    with small_disk(outbox, 64):
        staging = staged(outbox)
        filler = os.path.join(outbox, b"filler")
        with open(filler, "wb", buffering=0) as file, pytest.raises(OSError):  # noqa: PT012
            while True:
                file.write(bytes(4096))
        with pytest.raises(NoSpace, match="no room"):
            write_report(staging, b"talk", bytes(40_000))
        assert sorted(os.listdir(staging)) == [b"talk.srt", b"talk.txt"]
        os.unlink(filler)
        write_report(staging, b"talk", bytes(40_000))
        publish(staging, outbox, b"talk")
        assert sorted(tree(outbox)) == [
            b"talk/talk.penstock.json", b"talk/talk.srt", b"talk/talk.txt"
        ]  # fmt: skip


def test_a_read_only_disk_is_said_so(room: bytes) -> None:
    """A disk that went read-only is Transient with a reason that names it."""
    (outbox,) = folders(room, b"out")
    with small_disk(outbox, 64):
        staging = staged(outbox)
        subprocess.run(["mount", "-o", "remount,ro", os.fsdecode(outbox)], check=True)
        for target in (b"talk", b"sub/talk"):
            with pytest.raises(Transient, match="read-only"):
                publish(staging, outbox, target)


def test_a_mount_inside_the_outbox_is_said_so(room: bytes) -> None:
    """Where a subfolder lies on another disk, the reason says so and nothing is published."""
    (outbox,) = folders(room, b"out")
    staging = staged(outbox)
    with elsewhere(room) as far:
        (sub,) = folders(outbox, b"sub")
        with mounted(sub, "--bind", os.fsdecode(far)):
            with pytest.raises(Transient, match="mounted inside"):
                publish(staging, outbox, b"sub/talk")
            assert os.listdir(sub) == []
