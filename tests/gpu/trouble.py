"""A process that gets into trouble on the card and says, as one JSON line, what came of it."""

import argparse
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import psutil

from tests.gpu.ballast import ROOT, plain_environment

GIB = 1 << 30
SMALLEST = 1 << 19  # bytes; blocks below it change nothing
SIDE = 1024  # of the matrices


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What the process met. `kind` and `after` are empty if nothing failed."""

    first_kernel: float  # seconds from the birth of the process to its first result
    error: str = ""  # the class
    text: str = ""
    kind: str = ""  # what the recogniser makes of it
    after: str = ""  # the same of another try, once everything was let go
    retry_seconds: float = 0.0  # of that try
    status: int = 0  # return code; of a process that died nothing else is known
    tail: tuple[str, ...] = ()  # of its stderr


Call = Callable[[], object]


def first_kernel(torch: Any) -> None:
    """The smallest real use of the card."""
    torch.ones(1, device="cuda").add_(1)
    torch.cuda.synchronize()


def brim(torch: Any) -> list[Any]:
    """Blocks until not even the smallest fits."""
    blocks: list[Any] = []
    size = GIB
    while size >= SMALLEST:
        try:
            blocks.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            size //= 2
    return blocks


def _nothing(torch: Any) -> tuple[Call, Call]:
    return lambda: first_kernel(torch), lambda: first_kernel(torch)


def _oom(torch: Any) -> tuple[Call, Call]:
    size = torch.cuda.get_device_properties(0).total_memory + GIB

    def call() -> None:
        torch.empty(size, dtype=torch.uint8, device="cuda")

    return call, lambda: torch.empty(GIB, dtype=torch.uint8, device="cuda").fill_(1).sum().item()


def _assert(torch: Any) -> tuple[Call, Call]:
    def call() -> None:
        torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")].sum().item()

    return call, lambda: first_kernel(torch)


def _cublas(torch: Any) -> tuple[Call, Call]:
    left, right = (torch.ones(SIDE, SIDE, device="cuda") for _ in range(2))
    return _full(torch, lambda: (left @ right).sum().item())


def _cudnn(torch: Any) -> tuple[Call, Call]:
    image = torch.ones(1, 8, SIDE, SIDE, device="cuda")
    kernel = torch.ones(8, 8, 5, 5, device="cuda")
    return _full(torch, lambda: torch.nn.functional.conv2d(image, kernel).sum().item())


def _ctranslate2(torch: Any) -> tuple[Call, Call]:
    ctranslate2, np = (importlib.import_module(name) for name in ("ctranslate2", "numpy"))

    def use(items: int) -> None:
        there = ctranslate2.StorageView.from_array(np.ones(items, np.float32))
        there.to_device(ctranslate2.Device.cuda)

    full, _again = _full(torch, lambda: use(GIB // 8))

    def again() -> None:
        torch.cuda.empty_cache()  # another library can not have what torch keeps
        use(1024)

    return full, again


def _full(torch: Any, use: Call) -> tuple[Call, Call]:
    """`use` on a card that is full to the brim, and on one that is not."""

    def call() -> None:
        blocks = brim(torch)
        use()
        torch.cuda.synchronize()
        blocks.clear()

    def again() -> None:
        torch.cuda.empty_cache()  # as every cleanup does before a retry
        use()
        torch.cuda.synchronize()

    return call, again


TROUBLES: dict[str, Callable[[Any], tuple[Call, Call]]] = {
    "none": _nothing, "oom": _oom, "assert": _assert, "cublas": _cublas, "cudnn": _cudnn,
    "ctranslate2": _ctranslate2,
}  # fmt: skip


def read_arguments(words: Sequence[str]) -> argparse.Namespace:
    """`what` (a name of TROUBLES, or `hold`), `size` (bytes to hold), `seconds` (longest life)."""
    parser = argparse.ArgumentParser(prog="tests.gpu.trouble", description=__doc__)
    parser.add_argument("what", choices=(*TROUBLES, "hold"))
    parser.add_argument("--size", type=int, default=GIB, help="bytes to hold until stdin closes")
    parser.add_argument("--seconds", type=int, default=120, help="longest life")
    return parser.parse_args(words)


def command(*words: str) -> list[str]:
    """The argument list of such a process."""
    return [sys.executable, "-m", "tests.gpu.trouble", *words]


def run_trouble(what: str, *, allocator: str = "", timeout: float = 60.0) -> Told:
    """What a child met; `allocator` is a value of PYTORCH_ALLOC_CONF."""
    env = plain_environment()
    if allocator:  # the second is the name before torch 2.9
        env |= {"PYTORCH_ALLOC_CONF": allocator, "PYTORCH_CUDA_ALLOC_CONF": allocator}
    done = subprocess.run(
        command(what), cwd=ROOT, env=env, capture_output=True, timeout=timeout, check=False
    )
    tail = tuple(done.stderr.decode(errors="replace").splitlines()[-20:])
    if not done.stdout:
        return Told(first_kernel=0.0, status=done.returncode, tail=tail)
    told = msgspec.json.decode(done.stdout.splitlines()[-1], type=Told)
    return msgspec.structs.replace(told, status=done.returncode, tail=tail)


def _met(torch: Any, what: str) -> Told:
    from pipeline.core.gauge import Gauge
    from pipeline.gpu.unwind import Caught, run_and_release

    first_kernel(torch)
    ready = time.time() - psutil.Process().create_time()
    gauge = Gauge(gpu=True)
    call, again = TROUBLES[what](torch)
    met = run_and_release(call, gauge=lambda: gauge.reading(time.monotonic()))
    begun = time.monotonic()
    after = run_and_release(again)
    told = Told(
        first_kernel=ready, retry_seconds=time.monotonic() - begun,
        after=str(after.finding.kind) + f": {after.message}" if isinstance(after, Caught) else "",
    )  # fmt: skip
    if not isinstance(met, Caught):
        return told
    return msgspec.structs.replace(
        told, error=met.type, text=met.message, kind=str(met.finding.kind)
    )


def main() -> None:
    """Entry of `python -m tests.gpu.trouble`."""
    args = read_arguments(sys.argv[1:])
    signal.alarm(args.seconds)  # its default is to end the process
    import torch

    if args.what == "hold":
        block = torch.empty(args.size, dtype=torch.uint8, device="cuda").fill_(1)
        torch.cuda.synchronize()
        print(block.nbytes, flush=True)
        sys.stdin.buffer.read()
    else:
        print(msgspec.json.encode(_met(torch, args.what)).decode(), flush=True)
    os._exit(0)  # a poisoned context fails at a tidy end


if __name__ == "__main__":
    main()
