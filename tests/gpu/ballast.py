"""A neighbour on the card: a process that holds plain torch blocks until so much is left free.

It detaches from whoever starts it, else its blocks would count as those of our process tree. It
ends when its stdin closes, and by itself when its time is up. Plain allocations only: managed
memory can hang a card.
"""

import argparse
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

ROOT = Path(__file__).parent.parent.parent
MIB = 1 << 20
BLOCK = 4096 * MIB  # taken at once, at most
GRAIN = 2 * MIB  # torch rounds blocks up to this
LEAST = 10 * MIB  # for less than this torch takes 20 MiB
EXACT = LEAST + GRAIN  # bytes that may be left beyond what was asked for


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """What the ballast says when it lies. Bytes."""

    free: int  # of the card, as NVML says
    held: int


def next_block(free: int, wanted: int) -> int:
    """Bytes to take next so that `wanted` are left free in the end; 0: it is as near as it gets."""
    block = min(free - wanted, BLOCK) // GRAIN * GRAIN
    return block if block >= LEAST else 0


def read_arguments(words: Sequence[str]) -> argparse.Namespace:
    """`free` (bytes to leave) and `seconds` (then it ends in any case)."""
    parser = argparse.ArgumentParser(prog="tests.gpu.ballast", description=__doc__)
    parser.add_argument("--free", type=_natural, required=True, help="bytes to leave free")
    parser.add_argument("--seconds", type=_natural, default=240, help="longest life")
    return parser.parse_args(words)


def _natural(text: str) -> int:
    number = int(text)
    if number <= 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return number


def plain_environment() -> dict[str, str]:
    """Ours, with torch's own allocator and cards counted as NVML counts them."""
    env = {name: value for name, value in os.environ.items() if not name.endswith("_ALLOC_CONF")}
    return env | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "PYTHONUNBUFFERED": "1"}


class Ballast:
    """Context manager around the process; `ready` says what is left free."""

    def __init__(self, *, free: int, seconds: int = 240) -> None:
        words = ["--free", str(free), "--seconds", str(seconds)]
        self._command = [sys.executable, "-m", "tests.gpu.ballast", *words]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
            env=plain_environment(),
        )  # fmt: skip
        assert self._process.stdout
        try:
            line = self._process.stdout.readline()
            self._process.wait()  # what we started: the ballast detached long ago
        except BaseException:
            self._end()
            raise
        if not line:
            self._end()
            raise RuntimeError("the ballast ended before it lay; its stderr says why")
        self.ready = msgspec.json.decode(line, type=Ready)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        with self._process.stdout as pipe:
            pipe.read()  # it ends when the process does, which is no child of ours any more
        self._process.wait()


def fill(torch: Any, card: Any, wanted: int) -> list[Any]:
    """Blocks on the card, so many that NVML says `wanted` bytes are free."""
    blocks: list[Any] = []
    while size := next_block(card.free() or 0, wanted):
        try:
            blocks.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:  # the driver keeps the last bytes for itself
            break
    return blocks


def main() -> None:
    """Entry of `python -m tests.gpu.ballast`."""
    args = read_arguments(sys.argv[1:])
    if os.fork():
        os._exit(0)
    signal.alarm(args.seconds)  # its default is to end the process
    from pipeline.core.card import open_card

    torch = importlib.import_module("torch")
    card, why = open_card()
    if card is None:
        raise SystemExit(why)
    torch.empty(1, device="cuda")  # the context takes its part before the filling is measured
    blocks = fill(torch, card, args.free)
    ready = Ready(free=card.free() or 0, held=sum(block.nbytes for block in blocks))
    sys.stdout.buffer.write(msgspec.json.encode(ready) + b"\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    os._exit(0)  # the driver takes everything back; nothing of ours is worth a tidy end


if __name__ == "__main__":
    main()
