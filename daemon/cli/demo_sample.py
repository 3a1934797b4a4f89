"""The demo's sample: a sentence spoken by what this machine has, else one that comes along."""

import os
import shutil
import subprocess

SENTENCE = (
    "The quick brown fox jumps over the lazy dog. This file was dropped into a folder, "
    "and the words that you read were heard by a computer."
)
PACKAGED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sample.flac")
SPEAK_S = 30.0
LEAST_BYTES = 50_000  # less is no whole sentence


def make_sample(folder: bytes) -> tuple[bytes, str]:
    """Path of the sample in that folder, and in words how it was made."""
    target = os.path.join(folder, b"fox.wav")
    speakers = {
        "flite": ["flite", "-voice", "slt", "-t", SENTENCE, "-o", os.fsdecode(target)],
        "espeak-ng": ["espeak-ng", "-w", os.fsdecode(target), SENTENCE],
    }
    for name, command in speakers.items():
        if shutil.which(name) and _spoke(command, target):
            return target, f"spoken by {name}"
    target = os.path.join(folder, b"fox.flac")
    shutil.copyfile(PACKAGED, target)
    return target, "which comes with Penstock"


def _spoke(command: list[str], target: bytes) -> bool:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, timeout=SPEAK_S, check=False,
        )  # fmt: skip
        good = done.returncode == 0 and os.path.getsize(target) >= LEAST_BYTES
    except (OSError, subprocess.TimeoutExpired):
        good = False
    if not good and os.path.exists(target):
        os.unlink(target)
    return good
