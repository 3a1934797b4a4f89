"""Which packages and weights the worker's interpreter has, asked in a short-lived child.

A broken driver can hang or crash whoever loads torch, and the worker may have another interpreter.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

import msgspec

from pipeline.core.text import shown

WAIT_S = 60.0
PACKAGES = (
    "torch", "openai-whisper", "pocketsphinx", "silero-vad", "onnxruntime", "av", "numpy", "pysubs2"
)  # fmt: skip
# Runs in the child: argv[1] is what to ask, the last line of stdout is the answer.
QUESTION = """
import importlib.metadata, json, os, sys
asked = json.loads(sys.argv[1])
answer = {"packages": {}, "weights": {}}
for name in asked["packages"]:
    try:
        answer["packages"][name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
from pipeline.core.errors import PenstockError
from pipeline.engines import openai_whisper
for model in asked["models"]:
    try:
        path = openai_whisper.find_weights(model, os.fsencode(asked["folder"]))
        found = {"path": os.fsdecode(path) if path else ""}
    except PenstockError as error:
        found = {"error": str(error)}
    found["file"] = openai_whisper.ALIASES.get(model, model) + ".pt"
    answer["weights"][model] = found
if "torch" in answer["packages"]:
    try:
        import torch
        answer["torch"] = torch.__version__
        if torch.cuda.is_available():
            torch.ones(1, device="cuda").sum().item()
            answer["cuda"] = torch.cuda.get_device_name(0)
    except Exception as error:
        answer["cuda_error" if "torch" in answer else "torch_error"] = str(error)
    if "openai-whisper" in answer["packages"] and "torch" in answer:
        import whisper
        for model, found in answer["weights"].items():
            found["known"] = model in whisper.available_models()
print()
print(json.dumps(answer))
"""


class Weights(msgspec.Struct, frozen=True):
    """The weights of one Whisper model."""

    path: str = ""  # empty: not here
    error: str = ""  # why they can not be looked for
    file: str = ""  # what they are called
    known: bool = False  # one of the models that can be fetched


class Inventory(msgspec.Struct, frozen=True):
    """What the worker would find."""

    packages: dict[str, str]  # name → version
    weights: dict[str, Weights]
    torch: str | None = None  # its version, if it loads
    torch_error: str = ""
    cuda: str = ""  # the card that torch computed on
    cuda_error: str = ""


def take_inventory(python: str, folder: bytes, models: Sequence[str]) -> Inventory | str:
    """Ask the worker's interpreter (empty: ours); a text says why it could not be asked."""
    asked = {"packages": PACKAGES, "models": models, "folder": os.fsdecode(folder)}
    command = [python or sys.executable, "-c", QUESTION, msgspec.json.encode(asked).decode()]
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=WAIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it did not answer within {WAIT_S:.0f} s; loading torch may hang in the driver"
    except OSError as error:
        return f"it can not be started: {error.strerror}"
    lines = child.stdout.strip().splitlines()
    try:
        return msgspec.json.decode(lines[-1] if lines else b"", type=Inventory)
    except msgspec.DecodeError:
        words = child.stderr.strip().splitlines() or [b"no answer"]
        return f"exit status {child.returncode}: {shown(words[-1])}"
