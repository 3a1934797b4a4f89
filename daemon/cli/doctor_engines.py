"""Doctor's look at the card and the engines; whatever may hang or crash is asked in a child."""

import subprocess
import sys
from collections.abc import Iterator

import msgspec

from daemon.cli.findings import Finding, ok, problem, warning
from daemon.cli.inventory import Inventory, Weights, take_inventory
from daemon.settings import GpuSettings, ModelSettings, Settings
from pipeline.core.gauge import open_card
from pipeline.core.recipes import RECIPES, TranscribeOptions, read_options
from pipeline.core.text import human_bytes, shown

TRIAL_S = 30.0
INSTALL_ASR = "pip install 'penstock[asr]'"
CODEC = "h264_nvenc"


def card(settings: Settings | None) -> Iterator[Finding]:
    """What the driver says of the card."""
    device = (settings.gpu if settings else GpuSettings()).device
    found, why = open_card()
    if found is not None:
        free = found.free()
        room = "" if free is None else f", {human_bytes(free)} free"
        name, driver = found.name() or "a card", found.driver() or "unknown"
        yield ok("card", f"{shown(name)}, driver {shown(driver)}{room}; [gpu] device = {device}")
    elif device == "cuda":
        yield problem("card", f'[gpu] device = "cuda", but {why}', 'install it, or say "auto"')
    else:
        yield ok("card", f"none: {why}; everything runs on the CPU")


def engines(settings: Settings | None) -> Iterator[Finding]:
    """torch, and for each recipe that is used which engine would run."""
    wanted = _wanted(settings)
    models = settings.models if settings else ModelSettings(dir=b"")
    names = {options.model for options in wanted.values()}
    found = take_inventory(settings.worker.python if settings else "", models.dir, sorted(names))
    if isinstance(found, str):
        yield problem(
            "engines", f"the worker's interpreter can not be asked: {found}",
            "check [worker] python and its packages",
        )  # fmt: skip
        return
    yield from _torch(found, (settings.gpu if settings else GpuSettings()).device)
    for where, options in wanted.items():
        yield _transcribe(where, options, models, found)
    if settings is None or any(watch.recipe == "visualize" for watch in settings.watch):
        yield _visualize(found)


def _wanted(settings: Settings | None) -> dict[str, TranscribeOptions]:
    """The options of `transcribe` for each watch that uses it; without a config the defaults."""
    recipe = RECIPES["transcribe"]
    if settings is None:
        return {"": TranscribeOptions()}
    found: dict[str, TranscribeOptions] = {}
    for watch in settings.watch:
        if watch.recipe == recipe.name:
            options = read_options(recipe, watch.options)
            assert isinstance(options, TranscribeOptions)
            found[f" for {watch.name}"] = options
    return found


def _torch(found: Inventory, device: str) -> Iterator[Finding]:
    if found.torch is None:
        if found.torch_error:
            yield warning("torch", f"it can not be loaded: {found.torch_error}", INSTALL_ASR)
        else:
            yield warning("torch", "not installed: Whisper can not run", INSTALL_ASR)
        return
    if found.cuda:
        yield ok("torch", f"torch {found.torch} computes on {shown(found.cuda)}")
        return
    why = found.cuda_error or "it is a build without CUDA, or sees no card"
    if device == "cuda":
        yield problem(
            "torch", f'torch {found.torch}: [gpu] device = "cuda", but {why}',
            "install a build of torch for the driver's CUDA version",
        )  # fmt: skip
    elif open_card()[0] is not None:
        yield warning(
            "torch", f"torch {found.torch} does not use the card: {why}",
            "install a build of torch for the driver's CUDA version",
        )  # fmt: skip
    else:
        yield ok("torch", f"torch {found.torch}, on the CPU")


def _transcribe(
    where: str, options: TranscribeOptions, models: ModelSettings, found: Inventory
) -> Finding:
    """Which engine would hear a file now, by the rules of the stage."""
    area, of = "transcribe", found.packages
    missing = [name for name in ("silero-vad", "onnxruntime", "av") if name not in of]
    if missing:
        return problem(area, f"{', '.join(missing)} not installed{where}", INSTALL_ASR)
    whisper = _whisper(options, models, found)
    if options.engine != "pocketsphinx" and not whisper.why:
        return ok(area, f"{whisper.name}{where}, {whisper.note}")
    if options.engine == "openai-whisper":
        return problem(area, f"Whisper can not run{where}: {whisper.why}", whisper.hint)
    if "pocketsphinx" not in of or options.language not in ("auto", "en"):
        draft = "no draft engine either" if options.language in ("auto", "en") else "no other"
        return problem(area, f"Whisper can not run{where}: {whisper.why}; {draft}", whisper.hint)
    if options.engine == "pocketsphinx":
        return ok(area, f"pocketsphinx {of['pocketsphinx']}{where}, as configured: drafts only")
    text = f"only DRAFTS by pocketsphinx {of['pocketsphinx']}{where}, because {whisper.why}"
    return warning(area, text, whisper.hint)


class _Whisper(msgspec.Struct, frozen=True):
    """Whether Whisper can run: `why` not and what to do, or what is to be said about it."""

    name: str = ""
    note: str = ""
    why: str = ""
    hint: str = ""


def _whisper(options: TranscribeOptions, models: ModelSettings, found: Inventory) -> _Whisper:
    if found.torch is None or "openai-whisper" not in found.packages:
        return _Whisper(why="torch or openai-whisper is not installed", hint=INSTALL_ASR)
    name = f"openai-whisper {found.packages['openai-whisper']} ({shown(options.model, 80)})"
    weights = found.weights.get(options.model, Weights())
    if weights.path:
        return _Whisper(name=name, note=f"weights {weights.path}")
    if weights.error:
        return _Whisper(why=weights.error, hint="correct the option model")
    where = shown(models.dir) if models.dir else "~/.cache/whisper"
    file = shown(weights.file, 80)
    if models.offline:
        return _Whisper(
            why=f"{file} is not there and [models] offline is set",
            hint=f"put it into {where}, or set offline = false",
        )
    if not weights.known:
        return _Whisper(why=f"there is no Whisper model {shown(options.model, 80)}",
                        hint="correct the option model")  # fmt: skip
    return _Whisper(
        why=f"{file} is not there yet (it is fetched at the first file, if the network allows)",
        hint=f"put {file} into {where}, or connect this machine once",
    )


def _visualize(found: Inventory) -> Finding:
    missing = [name for name in ("av", "numpy") if name not in found.packages]
    if missing:
        return problem("visualize", f"{', '.join(missing)} not installed", "pip install penstock")
    return ok("visualize", f"PyAV {found.packages['av']}, its FFmpeg inside")


def encoder(settings: Settings | None) -> Iterator[Finding]:
    """Whether the card's video encoder really encodes."""
    python = (settings.worker.python if settings else "") or sys.executable
    command = [python, "-m", "pipeline.engines.pyav", "--trial", CODEC]
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRIAL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = f"the trial did not end: {error}"
    else:
        if child.returncode == 0:
            yield ok("encoder", f"{CODEC} works")
            return
        words = child.stdout.decode(errors="replace").strip().splitlines()
        why = words[0] if words else f"the trial crashed (exit status {child.returncode})"
    text = f"{CODEC} does not work ({shown(why, 200)}); libx264 is used"
    if open_card()[0] is None:
        yield ok("encoder", text)
    else:
        hint = "in a container pass NVIDIA_DRIVER_CAPABILITIES=video; some cards have no encoder"
        yield warning("encoder", text, hint)
