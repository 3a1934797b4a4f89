"""Kills and errors at every effect of every step, then the step once more."""

import errno
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from daemon.publish.notes import put_note
from daemon.publish.originals import Changed, Missing, Moved, delete_original, move_original
from daemon.publish.receipts import put
from daemon.publish.steps import is_ours, publish, staging_of, verify_outputs, write_report
from daemon.values import Sighting
from pipeline.core.contract import Output
from pipeline.core.errors import JobError, NoSpace
from tests.publish.crash import effects, failing_at, killed_at, tree

UID = "0123456789abcdef"
REPORT = b'{"ledger":"0123456789abcdef","job":7}'
SOUND = bytes(range(256)) * 40
CODES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.ESTALE)


@pytest.fixture
def far() -> Iterator[bytes]:
    """A folder on another file system."""
    try:
        path = tempfile.mkdtemp(dir="/dev/shm")
    except OSError:
        pytest.skip("there is no /dev/shm")
    yield os.fsencode(path)
    shutil.rmtree(path)


def make(path: bytes, data: bytes = SOUND) -> bytes:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    return path


def seen(root: bytes, name: bytes) -> Sighting:
    there = os.lstat(os.path.join(root, name))
    return Sighting(name=name, size=there.st_size, mtime_ns=there.st_mtime_ns, ino=there.st_ino)


def every_kill(
    walk: Callable[[int, str], tuple[Callable[[], object], Callable[[], None]]],
    *,
    plain: bool = False,
) -> int:
    """Kill a fresh step at each of its effects, take it again, check; returns how many kills."""
    kills = 0
    for number in itertools.count(1):
        for when in ("before", "after"):
            step, check = walk(number, when)
            if not killed_at(number, when, step, plain=plain):
                check()
                assert kills, "there was nothing to kill"
                return kills
            kills += 1
            if plain:
                with effects(lambda effect: effect(), plain=True):
                    step()
            else:
                step()
            check()
    raise AssertionError


def staged(outbox: bytes) -> tuple[bytes, list[Output]]:
    staging = staging_of(outbox, "000007", UID)
    make(os.path.join(staging, b"talk.srt"), b"1\n")
    make(os.path.join(staging, b"talk.txt"), b"hello")
    make(os.path.join(staging, b"left.part"), b"half")
    make(os.path.join(staging, b"old", b"deep.part"), b"half")
    return staging, [Output(name=b"talk.srt", size=2), Output(name=b"talk.txt", size=5)]


def walk_of_result(outbox: bytes, staging: bytes, outputs: list[Output]) -> None:
    verify_outputs(staging, outputs)
    write_report(staging, b"talk", REPORT)
    publish(staging, outbox, b"sub/talk")


def refused(code: int, step: Callable[[], object]) -> None:
    """The step may end or be refused, in plain words and as what it is."""
    reason, full = "", False
    try:
        step()
    except JobError as error:
        reason, full = error.reason, isinstance(error, NoSpace)
    assert "/proc/" not in reason
    assert full == (bool(reason) and code in (errno.ENOSPC, errno.EDQUOT))


@pytest.mark.parametrize("plain", [False, True])
def test_publish_survives_every_kill(room: bytes, plain: bool) -> None:
    """Whenever publishing is killed, taking it again gives one whole result and no litter."""

    def walk(number: int, when: str) -> tuple[Callable[[], object], Callable[[], None]]:
        outbox = os.path.join(room, b"%d%s" % (number, when.encode()))
        staging, outputs = staged(outbox)

        def step() -> None:
            if not is_ours(outbox, b"sub/talk", UID, 7):
                walk_of_result(outbox, staging, outputs)

        def check() -> None:
            assert tree(outbox) == {
                b"sub/talk/talk.srt": b"1\n",
                b"sub/talk/talk.txt": b"hello",
                b"sub/talk/talk.penstock.json": REPORT,
            }

        return step, check

    assert every_kill(walk, plain=plain) > 15


def test_no_kill_shows_a_part_of_a_result(room: bytes) -> None:
    """At the moment of any kill the outbox shows the whole result or nothing of it."""
    for number in itertools.count(1):
        outbox = os.path.join(room, b"%d" % number)
        staging, outputs = staged(outbox)
        step = partial(walk_of_result, outbox, staging, outputs)
        killed = killed_at(number, "after", step)
        assert len(tree(os.path.join(outbox, b"sub/talk"))) in (0, 3)
        if not killed:
            return


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("name", [b"talk.wav", b"sub/it's\n\xff.wav"])
def test_a_move_survives_every_kill(
    room: bytes, far: bytes, name: bytes, across: bool, plain: bool
) -> None:
    """Whenever a move is killed, taking it again leaves the original in one place, unchanged."""
    if across and os.stat(room).st_dev == os.stat(far).st_dev:
        pytest.skip("both are one file system")

    def walk(number: int, when: str) -> tuple[Callable[[], object], Callable[[], None]]:
        home = os.path.join(room, b"%d%s" % (number, when.encode()))
        inbox = os.path.join(home, b"in")
        archive = os.path.join(far if across else home, b"%d%s-to" % (number, when.encode()))
        source = make(os.path.join(inbox, name))
        os.utime(source, ns=(10**18, 10**18 + 7))
        os.makedirs(archive)
        sighting, place = seen(inbox, name), os.path.join(archive, name)

        def step() -> None:
            assert move_original(source, sighting, place) == Moved(place)

        def check() -> None:
            assert tree(inbox) == {}
            assert tree(archive) == {name: SOUND}
            assert os.stat(place).st_mtime_ns == 10**18 + 7

        return step, check

    every_kill(walk, plain=plain)


@pytest.mark.parametrize("plain", [False, True])
def test_the_original_exists_whole_at_every_kill(room: bytes, far: bytes, plain: bool) -> None:
    """A killed move across disks always leaves a whole original somewhere, and no half place."""
    for number in itertools.count(1):
        inbox, archive = os.path.join(room, b"in%d" % number), os.path.join(far, b"%d" % number)
        os.makedirs(archive)
        source, place = make(os.path.join(inbox, b"talk.wav")), os.path.join(archive, b"talk.wav")
        sighting = seen(inbox, b"talk.wav")
        step = partial(move_original, source, sighting, place)
        killed = killed_at(number, "after", step, plain=plain)
        assert SOUND in (*tree(inbox).values(), *tree(archive).values())
        assert tree(archive).get(b"talk.wav", SOUND) == SOUND
        if not killed:
            return


@pytest.mark.parametrize("plain", [False, True])
def test_a_deletion_survives_every_kill(room: bytes, plain: bool) -> None:
    """Whenever a deletion is killed, taking it again removes the original and nothing else."""

    def walk(number: int, when: str) -> tuple[Callable[[], object], Callable[[], None]]:
        inbox = os.path.join(room, b"%d%s" % (number, when.encode()))
        source = make(os.path.join(inbox, b"talk.wav"))
        make(os.path.join(inbox, b"other.wav"), b"other")
        sighting = seen(inbox, b"talk.wav")

        def step() -> None:
            assert delete_original(source, sighting) in (Moved(b""), Missing())

        def check() -> None:
            assert tree(inbox) == {b"other.wav": b"other"}

        return step, check

    assert every_kill(walk, plain=plain) >= 4


def test_small_files_survive_every_kill(room: bytes) -> None:
    """A receipt and a note are whole or absent at any kill, and taking them again leaves one."""

    def walk(number: int, when: str) -> tuple[Callable[[], object], Callable[[], None]]:
        folder = os.path.join(room, b"%d%s" % (number, when.encode()))
        source = make(os.path.join(folder, b"talk.wav"))
        receipt = b'{"schema":"penstock-receipt-1"}'

        def step() -> None:
            assert put(source, receipt)
            put_note(source, "Penstock could not process this file.")

        def check() -> None:
            assert set(tree(folder)) == {
                b"talk.wav", b"talk.wav.penstock.json", b"talk.wav.FAILED.txt"
            }  # fmt: skip

        return step, check

    every_kill(walk)


@pytest.mark.parametrize("code", CODES)
def test_publish_survives_every_error(room: bytes, code: int) -> None:
    """An error at any effect is a JobError in plain words; later the result appears whole."""
    for number in itertools.count(1):
        outbox = os.path.join(room, b"%d" % number)
        staging, outputs = staged(outbox)
        around, counted = failing_at(number, code)
        with effects(around):
            refused(code, partial(walk_of_result, outbox, staging, outputs))
        if not is_ours(outbox, b"sub/talk", UID, 7):
            staged(outbox)  # a failed fsync takes its output away: the worker writes it again
            walk_of_result(outbox, staging, outputs)
        assert len(tree(outbox)) == 3
        if len(counted) < number:
            return


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("across", [False, True])
def test_a_move_survives_every_error(room: bytes, far: bytes, code: int, across: bool) -> None:
    """An error at any effect of a move loses nothing, and a later move ends it."""
    for number in itertools.count(1):
        home = os.path.join(room, b"%d" % number)
        inbox = os.path.join(home, b"in")
        archive = os.path.join(far if across else home, b"%d-to" % number)
        os.makedirs(archive)
        source, place = make(os.path.join(inbox, b"talk.wav")), os.path.join(archive, b"talk.wav")
        sighting = seen(inbox, b"talk.wav")
        around, counted = failing_at(number, code)
        with effects(around):
            refused(code, partial(move_original, source, sighting, place))
        assert SOUND in (*tree(inbox).values(), *tree(archive).values())
        assert move_original(source, sighting, place) == Moved(place)
        assert tree(inbox) == {}
        assert tree(archive) == {b"talk.wav": SOUND}
        if len(counted) < number:
            return


@pytest.mark.parametrize("across", [False, True])
def test_a_newer_file_is_never_taken(room: bytes, far: bytes, across: bool) -> None:
    """A file that takes the name at any moment of the move stays in the inbox."""
    for number in itertools.count(1):
        home = os.path.join(room, b"%d" % number)
        inbox = os.path.join(home, b"in")
        archive = os.path.join(far if across else home, b"%d-to" % number)
        os.makedirs(archive)
        source, place = make(os.path.join(inbox, b"talk.wav")), os.path.join(archive, b"talk.wav")
        sighting = seen(inbox, b"talk.wav")
        newer = make(os.path.join(home, b"newer"), b"newer")
        rename, count = os.rename, 0

        def around(effect: Callable[[], object]) -> object:
            nonlocal count
            count += 1
            if count == number:  # noqa: B023
                rename(newer, source)  # noqa: B023
            return effect()

        with effects(around):
            answer = move_original(source, sighting, place)
        if count < number:
            assert answer == Moved(place)
            return
        assert answer in (Changed(), Moved(place))
        assert b"newer" in tree(inbox).values()
        assert not any(b"newer" in data for data in tree(archive).values())
