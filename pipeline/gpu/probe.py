"""`python -m pipeline.gpu.probe`: exit status 0 if the card really computes, else 1 and why."""

import sys

MIB = 1 << 20


def trial() -> str:
    """Allocate a mebibyte, add, read back; empty if the sum is right, else the reason."""
    try:
        import torch
    except ImportError as error:
        return f"torch is not installed: {error}"
    if not torch.cuda.is_available():
        return "torch sees no card"
    try:
        ones = torch.ones(MIB // 4, device="cuda")
        total = int((ones + ones).sum().item())
        torch.cuda.synchronize()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return "" if total == MIB // 2 else f"the card computed {total} instead of {MIB // 2}"


if __name__ == "__main__":
    reason = trial()
    print(reason)  # noqa: T201  # the answer to the parent
    sys.exit(1 if reason else 0)
