"""Weights as files: looked for on disk, fetched whole or not at all."""

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Callable, Iterable

from pipeline.core.errors import EngineMissing, NoSpace
from pipeline.core.files import FULL, make_folders, remove_if_there, temp_beside
from pipeline.core.text import shown

TIMEOUT_S = 10.0  # for each answer of the network, not for the whole
BLOCK = 1 << 20


def first_file(folders: Iterable[bytes], name: bytes) -> bytes | None:
    """The file of that name in the first folder that has it; empty folders are passed over."""
    paths = (os.path.join(folder, name) for folder in folders if folder)
    return next((path for path in paths if os.path.isfile(path)), None)


def fetch(url: str, sha256: str, target: bytes, turn: Callable[[], None]) -> None:
    """Fetch one file into place, checked; nothing is left of it if that fails.

    EngineMissing says what the network or the disk answered; NoSpace if the disk is full. `turn`
    is called for every megabyte; what it raises ends the work.
    """
    part = temp_beside(target)
    digest = hashlib.sha256()
    try:
        make_folders(os.path.dirname(target))
        with (
            urllib.request.urlopen(url, timeout=TIMEOUT_S) as source,  # noqa: S310  # from a library's own list
            open(part, "wb") as out,
        ):
            while block := source.read(BLOCK):
                turn()
                digest.update(block)
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() != sha256:
            raise EngineMissing("what came is not what was published: its SHA-256 differs")
        os.replace(part, target)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise NoSpace(f"no room for {shown(target)}", "free some space there") from error
        raise EngineMissing(shown(str(error))) from error
    finally:
        remove_if_there(part)
