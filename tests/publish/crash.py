"""Kills and faults at every effect of a step; killed steps run in a child of their own."""

import ctypes
import errno
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pytest

from pipeline.core import files

EFFECTS = ("mkdir", "rename", "replace", "unlink", "rmdir", "link", "utime", "fsync")
Effect = Callable[..., Any]
Around = Callable[[Callable[[], Any]], Any]  # gets the effect, runs it or not


class Libc:
    """Stands before the C library, so that its rename counts as an effect too."""

    def __init__(self, real: Any, around: Around, plain: bool) -> None:
        self._real, self._around, self._plain = real, around, plain

    def renameat2(self, *args: Any) -> int:
        if self._plain:  # a file system that does not know RENAME_NOREPLACE
            ctypes.set_errno(errno.EINVAL)
            return -1
        try:
            code: int = self._around(lambda: self._real.renameat2(*args))
        except OSError as error:
            ctypes.set_errno(error.errno or 0)
            return -1
        return code


@contextmanager
def effects(around: Around, *, plain: bool = False) -> Iterator[None]:
    """Every effect on the disk goes through `around`."""

    def wrap(real: Effect) -> Effect:
        return lambda *args, **named: around(lambda: real(*args, **named))

    with pytest.MonkeyPatch.context() as patch:
        for name in EFFECTS:
            patch.setattr(os, name, wrap(getattr(os, name)))
        patch.setattr(files, "_libc", Libc(files._libc, around, plain))
        real_write = files.write_all

        def write_half(out: BinaryIO, block: bytes) -> None:
            real_write(out, block[: len(block) // 2])
            around(lambda: real_write(out, block[len(block) // 2 :]))

        patch.setattr(files, "write_all", write_half)
        yield


def killed_at(number: int, when: str, step: Callable[[], object], *, plain: bool = False) -> bool:
    """Run the step in a child that is killed before or after its n-th effect; False if it ended."""
    child = os.fork()
    if child == 0:
        _die_at(number, when, step, plain)
    _pid, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "the step failed by itself"
    return False


def _die_at(number: int, when: str, step: Callable[[], object], plain: bool) -> None:
    seen = 0

    def around(effect: Callable[[], Any]) -> Any:
        nonlocal seen
        seen += 1
        if seen == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return effect()
        finally:
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        with effects(around, plain=plain):
            step()
    except BaseException:  # noqa: BLE001  # nothing may get out of the child
        traceback.print_exc()
        os._exit(3)
    os._exit(0)


def failing_at(number: int, code: int) -> tuple[Around, list[int]]:
    """An `around` whose n-th effect fails with that errno, and a list that counts the effects."""
    seen: list[int] = []

    def around(effect: Callable[[], Any]) -> Any:
        seen.append(1)
        if len(seen) == number:
            raise OSError(code, os.strerror(code))
        return effect()

    return around, seen


def tree(root: bytes) -> dict[bytes, bytes]:
    """Every file below a folder, hidden ones too: relative name and bytes (a link: its text)."""
    found: dict[bytes, bytes] = {}
    for folder, _folders, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                found[os.path.relpath(path, root)] = b"-> " + os.readlink(path)
            else:
                with open(path, "rb") as file:
                    found[os.path.relpath(path, root)] = file.read()
    return found
