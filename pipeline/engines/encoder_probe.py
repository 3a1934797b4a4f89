"""Which video encoder really works here: tried in a short-lived child, not read from a list.

A broken driver can hang or crash whoever loads it, so a child process encodes five frames.
"""

import functools
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

TRIAL_SECONDS = 20.0
ROOT = Path(__file__).parent.parent.parent

# FFmpeg's words, most telling first, and what they mean in plain ones.
MEANINGS = (
    ("Cannot load libcuda.so.1", "no NVIDIA driver here, or the container was not given the card"),
    ("Cannot load libnvidia-encode.so.1", "the container lacks NVIDIA_DRIVER_CAPABILITIES=video"),
    ("Driver does not support the required nvenc API version", "the NVIDIA driver is too old"),
    ("unsupported device", "this card has no video encoder"),
    ("out of memory (10)", "the card's encoder sessions or memory are taken"),
    ("incompatible client key", "the driver is patched or blocks the encoder"),
    ("No CUDA capable devices found", "no card is visible; look at CUDA_VISIBLE_DEVICES"),
    ("No capable devices found", "no visible card has a video encoder"),
    ("Codec not supported", "this card can not encode H.264"),
)  # fmt: skip


class EncoderChoice(NamedTuple):
    """The encoder to use and, where it is not the wished one, why."""

    codec: str  # h264_nvenc or libx264
    reason: str = ""


def pick_encoder(wanted: str) -> EncoderChoice:
    """The encoder for `auto`, `h264_nvenc` or `libx264`: the card's if it encoded five frames."""
    if wanted == "libx264":
        return EncoderChoice("libx264")
    refusal = _refusal("h264_nvenc")
    return EncoderChoice("libx264", refusal) if refusal else EncoderChoice("h264_nvenc")


@functools.cache
def _refusal(codec: str) -> str:
    """Why the encoder does not work here, empty if it does; asked once per process."""
    command = [sys.executable, "-m", "pipeline.engines.pyav", "--trial", codec]
    try:
        child = subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TRIAL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{codec}: the trial did not end within {TRIAL_SECONDS:.0f} s; the driver may hang"
    if child.returncode == 0:
        return ""
    words = child.stdout.decode(errors="replace")
    if not words.strip():
        return f"{codec}: the trial crashed (exit status {child.returncode})"
    return f"{codec}: {explain(words)}"


def explain(words: str) -> str:
    """FFmpeg's own words and, where they are known, what they mean."""
    for sign, meaning in MEANINGS:
        for line in words.splitlines():
            if sign in line:
                return f"{line.strip()[:200]} ({meaning})"
    return words.strip().splitlines()[0][:200]
