"""The house rules, read from one table: who may import whom, and how every file begins."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Longest prefix wins. A module may import itself, its own package, and what its row lists.
# "!" means: not even a sister module of the same package.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "pipeline.core": (),
    "pipeline.gpu": ("pipeline.core",),
    "pipeline.media": ("pipeline.core",),
    "pipeline.engines": ("!", "pipeline.gpu", "pipeline.media", "pipeline.core"),
    "pipeline.stages": ("!", "pipeline.engines", "pipeline.gpu", "pipeline.media", "pipeline.core"),
    "pipeline.runner": ("pipeline.stages", "pipeline.engines", "pipeline.gpu", "pipeline.core"),
    "pipeline.worker": ("pipeline.runner", "pipeline.gpu", "pipeline.core"),
    "daemon.values": ("pipeline.core",),
    "daemon.settings": ("pipeline.core",),
    "daemon.intake": ("daemon.values", "daemon.settings", "pipeline.core"),
    "daemon.queue": ("daemon.values", "daemon.settings", "pipeline.core"),
    "daemon.dispatch": ("daemon.values", "daemon.settings", "pipeline.core"),
    "daemon.publish": ("daemon.values", "daemon.settings", "pipeline.core"),
    "daemon.tell": ("daemon.values", "daemon.settings", "pipeline.core"),
    "daemon.cli": ("daemon", "pipeline.core"),
    "daemon": ("daemon", "pipeline.core"),  # service sees all rooms, but not the command line
}
DECIDERS = (
    "daemon.intake.settle",
    "daemon.intake.ignore",
    "daemon.queue.admit",
    "daemon.queue.schedule",
    "daemon.queue.retry",
    "daemon.queue.recover",
    "daemon.dispatch.supervise",
)
# A decider gets facts and returns a verdict: no clock, no disk, no log, no thread.
NOT_FOR_DECIDERS = {
    "os", "time", "datetime", "logging", "threading", "subprocess", "pathlib", "shutil", "socket",
    "sqlite3", "random", "io", "psutil", "signal", "tempfile",
}  # fmt: skip
# One engine file for each of these; nobody else imports it.
ENGINE_ONLY = {
    "torch", "whisper", "pocketsphinx", "onnxruntime", "av", "pysubs2", "demucs", "TTS",
    "faster_whisper", "pyannote", "scenedetect", "cv2", "silero_vad",
}  # fmt: skip
NOT_IN_CORE = ENGINE_ONLY | {"numpy", "rich", "watchdog"}


def modules() -> Iterator[tuple[str, Path]]:
    for package in ("daemon", "pipeline"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def row_of(module: str) -> str:
    fitting = [row for row in MAY_IMPORT if module == row or module.startswith(f"{row}.")]
    return max(fitting, key=len, default="")


def below(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def forbidden(module: str, target: str, known: set[str]) -> bool:
    if not below(target, "daemon") and not below(target, "pipeline"):
        return False
    if target not in known and target.rpartition(".")[0] in known:
        target = target.rpartition(".")[0]  # a name inside a module
    row = row_of(module)
    rules = MAY_IMPORT.get(row, ())
    if row == "daemon" and below(target, "daemon.cli"):
        return True
    if below(target, row) and row != "daemon":
        own = ".".join(module.split(".")[: row.count(".") + 2])  # an engine may be a package
        return "!" in rules and target != row and not below(target, own)
    return not any(below(target, rule) for rule in rules if rule != "!")


def test_imports_go_one_way() -> None:
    """Every import between our packages is allowed by the table."""
    every = list(modules())
    known = {name for name, _path in every}
    wrong = [
        f"{name} imports {target}"
        for name, path in every
        if name not in ("daemon", "pipeline")
        for target in imports(path)
        if forbidden(name, target, known)
    ]
    assert not wrong


def test_the_rules_can_fail() -> None:
    """The checker refuses what the design forbids and lets pass what it allows."""
    known = {name for name, _path in modules()}
    assert forbidden("pipeline.core.files", "daemon.values", known)
    assert forbidden(
        "pipeline.stages.vad", "pipeline.stages.decode", known | {"pipeline.stages.decode"}
    )
    assert forbidden("daemon.queue.admit", "daemon.publish.steps", known | {"daemon.publish.steps"})
    assert forbidden("daemon.service", "daemon.cli.main", known | {"daemon.cli.main"})
    assert forbidden("daemon.service", "pipeline.runner", known | {"pipeline.runner"})
    assert not forbidden("daemon.queue.admit", "pipeline.core.contract", known)
    assert not forbidden("daemon.service", "daemon.values", known)


@pytest.mark.parametrize("decider", DECIDERS)
def test_deciders_are_pure(decider: str) -> None:
    """A decider imports no clock, disk, log or thread."""
    path = ROOT / f"{decider.replace('.', '/')}.py"
    roots = {target.partition(".")[0] for target in imports(path)}
    assert not roots & NOT_FOR_DECIDERS


def test_each_library_has_one_engine_file() -> None:
    """A wrapped library is imported in exactly one engine: a file, or the package of its name."""
    users: dict[str, set[str]] = {}
    for name, path in modules():
        for root in {target.partition(".")[0] for target in imports(path)} & ENGINE_ONLY:
            engine = ".".join(name.split(".")[:3])  # pipeline.engines.NAME, file or package
            users.setdefault(root, set()).add(engine)
    for library, names in users.items():
        if library == "torch":  # the one library that several engines stand on
            assert all(
                below(name, "pipeline.engines") or below(name, "pipeline.gpu") for name in names
            )
            continue
        assert len(names) == 1, f"{library}: {names}"
        assert below(names.pop(), "pipeline.engines"), library


def test_the_ground_floor_is_light() -> None:
    """pipeline.core imports nothing heavy."""
    for name, path in modules():
        if below(name, "pipeline.core"):
            roots = {target.partition(".")[0] for target in imports(path)}
            assert not roots & NOT_IN_CORE, name


def test_every_file_says_its_purpose() -> None:
    """Each module begins with a docstring whose first line is a sentence."""
    for name, path in modules():
        doc = ast.get_docstring(ast.parse(path.read_text()))
        assert doc, name
        assert doc.splitlines()[0].endswith((".", ":")), name


def test_no_shell_strings() -> None:
    """No call in the product passes shell=True or uses os.system."""
    for name, path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                raise AssertionError(name)
            if isinstance(node, ast.Attribute) and node.attr in ("system", "popen"):
                raise AssertionError(name)
