"""Mounts for tests that need one; they are skipped where mounting is not allowed."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def mounted(folder: bytes, *options: str) -> Iterator[bytes]:
    """Something mounted on the folder; `options` as for mount(8), without the folder."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    done = subprocess.run(
        ["mount", *options, os.fsdecode(folder)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"mounting is not possible here: {os.fsdecode(done.stderr).strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", os.fsdecode(folder)], check=True)


@contextmanager
def small_disk(folder: bytes, kilobytes: int) -> Iterator[bytes]:
    """A disk with that much room."""
    with mounted(folder, "-t", "tmpfs", "-o", f"size={kilobytes}k", "none") as disk:
        yield disk
