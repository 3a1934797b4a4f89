"""The steps that turn a staging folder into a published result, each safe to take again."""

import errno
import os
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from daemon.publish.folders import free_name, held, look, read_small, remove_any, trouble
from pipeline.core.contract import Output
from pipeline.core.errors import Transient
from pipeline.core.files import rename_new, sync_folder, write_whole
from pipeline.core.text import fit_name, shown

SHELF = b".penstock"  # hidden, in the outbox: a result is published from there by one rename
REPORT = b".penstock.json"
_REPORT_LIMIT = 64 * 1024 * 1024  # bytes
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_SUFFIX = re.compile(rb"(?<=.)\.[A-Za-z0-9_+~-]{1,12}\Z", re.DOTALL)


class NotStaged(Transient):
    """What was staged is not there or is not whole: the work has to be done again."""


def staging_of(outbox: bytes, label: str, uid: str) -> bytes:
    """A job's staging folder; the ledger's uid keeps two services on one outbox apart."""
    return os.path.join(outbox, SHELF, f"{label}-{uid[:8]}".encode())


def result_name(name: bytes) -> bytes:
    """The result folder for a drop's relative name: `sub/talk.wav` gives `sub/talk`.

    Every part is a visible name that Windows takes at its ends, and fits 255 bytes. Its last part
    is a good stem for the outputs.
    """
    *parents, last = name.split(b"/")
    kept = [_visible(part) for part in parents if part not in (b"", b".", b"..")]
    return b"/".join([*kept, _visible(_SUFFIX.sub(b"", last))])


def _visible(part: bytes) -> bytes:
    clean = fit_name(_CONTROL.sub(b"_", part).lstrip(b"."))
    return clean.rstrip(b". ") or b"unnamed"


def verify_outputs(staging: bytes, outputs: Sequence[Output]) -> None:
    """Check that exactly these files are staged, whole, and make them durable.

    Whatever else lies there is removed. Raises NotStaged (a Transient) if one is missing, empty or
    of another size, NoSpace or Transient if the disk does not keep them.
    """
    if not outputs:
        raise NotStaged("the worker finished without any output")
    for output in outputs:
        if output.name in (b"", b".", b"..") or b"/" in output.name:
            raise NotStaged(f"{shown(output.name)} is no name for an output")
    wanted = {output.name: output.size for output in outputs}
    with _staged(staging, "the outputs can not be checked") as here:
        for name in os.listdir(here):
            if name not in wanted:
                remove_any(os.path.join(here, name))
        for name, size in wanted.items():
            _verify_one(os.path.join(here, name), size)
        sync_folder(here)


@contextmanager
def _staged(staging: bytes, what: str) -> Iterator[bytes]:
    outbox, shelf, label = staging.rsplit(b"/", 2)
    try:
        with held(outbox or b"/", os.path.join(shelf, label)) as here:
            yield here
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotStaged(f"the staging folder {shown(staging)} is gone") from error
    except OSError as error:
        raise trouble(error, what) from error


def _verify_one(path: bytes, size: int) -> None:
    name = shown(os.path.basename(path))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise NotStaged(f"the output {name} is not there: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise NotStaged(f"the output {name} is not a regular file")
        found = os.lseek(fd, 0, os.SEEK_END)
        if found != size or size <= 0:
            raise NotStaged(f"the output {name} has {found} bytes, the worker wrote {size}")
        os.fsync(fd)
    except OSError:
        os.unlink(path)  # the kernel forgets a failed write: a second fsync would say yes
        raise
    finally:
        os.close(fd)


def write_report(staging: bytes, stem: bytes, report: bytes) -> None:
    """Put the job's report beside its outputs, after verify_outputs; its name ends in REPORT."""
    with _staged(staging, "the report can not be written") as here:
        write_whole(os.path.join(here, fit_name(stem, REPORT)), report)


def choose_target(outbox: bytes, wanted: bytes, taken: Collection[bytes]) -> bytes:
    """The first of wanted, `wanted (2)` … that is free in the outbox and not in `taken`.

    All relative to the outbox; `taken` are the names reserved by other open jobs.
    """
    try:
        return free_name(outbox, wanted, taken, folder=True)
    except OSError as error:
        raise trouble(error, f"{shown(wanted)} can not be looked up in the outbox") from error


def publish(staging: bytes, outbox: bytes, target: bytes) -> None:
    """Rename the staging folder to outbox/target, durable; the one moment when a result appears.

    Take it after `is_ours` said no. FileExistsError: something has that name, choose again.
    NotStaged: there is nothing to publish. NoSpace, Transient: the outbox refuses; try later.
    """
    what = f"{shown(target)} can not be put into the outbox {shown(outbox)}"
    folder, name = os.path.split(target)
    shelf, label = os.path.split(staging)
    try:
        with held(outbox, folder, make=True) as into, _shelf(shelf) as out_of:
            there = look(os.path.join(out_of, label))
            if there is None or not stat.S_ISDIR(there.st_mode):
                raise NotStaged(f"the staging folder {shown(staging)} is gone")
            rename_new(os.path.join(out_of, label), os.path.join(into, name))
            sync_folder(into)
            sync_folder(out_of)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from error
        raise trouble(error, what) from error


@contextmanager
def _shelf(path: bytes) -> Iterator[bytes]:
    root, shelf = os.path.split(path)
    try:
        with held(root, shelf) as here:
            yield here
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotStaged(f"the staging folder {shown(path)} is gone") from error


class _Owner(msgspec.Struct, frozen=True):
    """The two keys of a report that say whose it is."""

    ledger: str = ""
    job: int = 0


def is_ours(outbox: bytes, target: bytes, uid: str, job: int) -> bool:
    """Whether outbox/target is this job's published result; if so it is durable from here on.

    Its report names the ledger (key "ledger") and the job (key "job").
    """
    folder, name = os.path.split(target)
    try:
        with held(outbox, folder) as parent, held(outbox, target) as here:
            mine = any(
                _owner(os.path.join(here, entry)) == _Owner(ledger=uid, job=job)
                for entry in os.listdir(here)
                if entry.endswith(REPORT)
            )
            if mine and name:  # a crash may have come between the rename and its fsync
                sync_folder(parent)
            return mine
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise trouble(error, f"{shown(target)} can not be looked up in the outbox") from error


def _owner(path: bytes) -> _Owner:
    try:
        return msgspec.json.decode(read_small(path, _REPORT_LIMIT), type=_Owner)
    except msgspec.DecodeError:
        return _Owner()
