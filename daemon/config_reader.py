"""Turns a parsed config into the settings, and collects everything that is wrong on the way."""

import os
from typing import Any

import msgspec

from daemon.checks import NAME_LIMIT, Findings, Place, check_table, fields_of, in_words
from daemon.intake.mounts import is_network
from daemon.overlaps import Spot, find_overlaps, spot
from daemon.settings import QueueSettings, Settings, WatchSettings
from daemon.toml_lines import Path
from pipeline.core.errors import ConfigError
from pipeline.core.recipes import RECIPES, read_options
from pipeline.core.text import shown

EXAMPLE = (
    'name = "talks", path = "inbox/talks", recipe = "transcribe", outbox = "outbox/talks", '
    'archive = "archive/talks", failed = "failed/talks"'
)
_SECTIONS: dict[str, type[msgspec.Struct]] = {
    field.name: field.type
    for field in msgspec.structs.fields(Settings)
    if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
}
_WATCH_FIELDS = fields_of(WatchSettings, without=frozenset({"only"}))
_BELONGS = {key: f"[{name}]" for name, kind in _SECTIONS.items() for key in fields_of(kind)}


class Reader:
    """One reading of one document: collects what is wrong while it builds the settings."""

    def __init__(self, findings: Findings, folder: bytes) -> None:
        self.findings = findings
        self.folder = folder  # relative paths count from here
        self.spots: list[Spot] = []

    def settings(self, document: dict[str, Any]) -> Settings | None:
        """The settings; None if anything is wrong."""
        self._sections_known(document)
        parts = {name: self._section(name, document.get(name, {})) for name in _SECTIONS}
        recipes = self._recipes(document.get("recipes", {}))
        watches = self._watches(document.get("watch", []), recipes)
        for where, text in find_overlaps(self.spots):
            self.findings.add(where, text)
        self._disk_limits(parts["queue"])
        self._state_is_local()
        if self.findings.problems:
            return None
        return Settings(
            **parts, recipes=recipes, watch=tuple(WatchSettings(**watch) for watch in watches)
        )

    def _sections_known(self, document: dict[str, Any]) -> None:
        for name, value in document.items():
            if name in Settings.__struct_fields__:
                continue
            if not isinstance(value, dict | list) and name in _BELONGS:
                text = f'key "{name}" stands outside of its section, {_BELONGS[name]}'
            else:
                near = self.findings.nearest(name, Settings.__struct_fields__)
                hint = f"; did you mean {_header(near)}?" if near else f"; known are {_known()}"
                kind = "section" if isinstance(value, dict | list) else "key"
                label = (
                    f"[{shown(name, NAME_LIMIT)}]"
                    if kind == "section"
                    else f'"{shown(name, NAME_LIMIT)}"'
                )
                text = f"{kind} {label} is not known{hint}"
            self.findings.add((name,), text)

    def _section(self, name: str, given: object) -> Any:
        kind = _SECTIONS[name]
        if not isinstance(given, dict):
            wrong = "is one table: write it with single brackets"
            if not isinstance(given, list):
                wrong = f"must be a table, is {in_words(given)}"
            self.findings.add((name,), f"[{name}] {wrong}")
            given = {}
        place = Place(path=(name,), label=f"[{name}]: ", elsewhere=_BELONGS)
        fields = fields_of(kind)
        values = check_table(self.findings, place, given, fields)
        for key, field in fields.items():
            if field.type is bytes:
                text = values.get(key, os.fsdecode(field.default))
                values[key] = self._folder((name, key), f"[{name}]", text, empty_ok=False)
        return kind(**values)

    def _recipes(self, given: object) -> dict[str, dict[str, Any]]:
        """The defaults of each recipe that are right."""
        if not isinstance(given, dict):
            self.findings.add(("recipes",), "[recipes] must hold tables such as [recipes.noop]")
            return {}
        good = {}
        for name, options in given.items():
            path: Path = ("recipes", name)
            label = f"[recipes.{shown(name, NAME_LIMIT)}]"
            if not isinstance(options, dict):
                self.findings.add(path, f"{label} must be a table, is {in_words(options)}")
            elif name not in RECIPES:
                self.findings.add(path, f"{label}: {self._no_recipe(name)}")
            else:
                good[name] = self._options(Place(path=path, label=f"{label}: "), name, options)
        return good

    def _options(self, place: Place, recipe: str, given: dict[str, Any]) -> dict[str, Any]:
        subject = f'option "{{}}" of {recipe}'
        place = msgspec.structs.replace(place, subject=subject)
        return check_table(self.findings, place, given, fields_of(RECIPES[recipe].options))

    def _no_recipe(self, name: str) -> str:
        near = self.findings.nearest(name, RECIPES)
        hint = f'; did you mean "{near}"?' if near else f"; known are {', '.join(sorted(RECIPES))}"
        return f'there is no recipe "{shown(name, NAME_LIMIT)}"{hint}'

    def _watches(self, given: object, recipes: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
        if isinstance(given, dict):
            self.findings.add(
                ("watch",),
                "[watch] must be written [[watch]], with two brackets: there can be several",
            )
            return []
        if not isinstance(given, list):
            self.findings.add(("watch",), f"[[watch]] must be tables, is {in_words(given)}")
            return []
        if not given:
            self.findings.add((), f"there is no [[watch]]; add one, for example with {EXAMPLE}")
        watches = []
        lines: dict[str, int] = {}  # names so far, and where
        for number, table in enumerate(given):
            path: Path = ("watch", number)
            if not isinstance(table, dict):
                self.findings.add(path, f"[[watch]] must be a table, is {in_words(table)}")
                continue
            watch = self._watch(path, table, recipes)
            name = watch.get("name")
            if name in lines:
                self.findings.add(
                    (*path, "name"),
                    f'[[watch]] "{name}": the watch on line {lines[name]} has this name already',
                )
            elif name:
                lines[name] = self.findings.line(path)
            watches.append(watch)
        return watches

    def _watch(
        self, path: Path, table: dict[str, Any], recipes: dict[str, dict[str, Any]]
    ) -> dict[str, Any]:
        """What of one watch is right."""
        label = _watch_label(path, table)
        place = Place(path=path, label=f"{label}: ", elsewhere=_BELONGS)
        values = check_table(self.findings, place, table, _WATCH_FIELDS)
        for key, field in _WATCH_FIELDS.items():
            if field.type is bytes and key in values:
                values[key] = self._folder(
                    (*path, key), label, values[key], empty_ok=not field.required
                )
        recipe = values.get("recipe")
        if recipe in RECIPES:
            options = Place(path=(*path, "options"), label=f"{label}: ")
            own = self._options(options, recipe, values.get("options", {}))
            values["options"] = recipes.get(recipe, {}) | own
            self._options_agree(options, recipe, values["options"])
        elif recipe is not None:
            self.findings.add((*path, "recipe"), f"{label}: {self._no_recipe(recipe)}")
        after = values.get("after", "" if "after" in table else "archive")
        if after == "archive" and not table.get("archive"):
            self.findings.add(
                (*path, "after"),
                f'{label}: after = "archive" (also if it is not said) needs key "archive", '
                'the folder for originals that are done; or say after = "keep" or "delete"',
            )
        return values

    def _options_agree(self, place: Place, recipe: str, options: dict[str, Any]) -> None:
        """What only shows when all options are together."""
        try:
            read_options(RECIPES[recipe], options)
        except ConfigError as error:
            self.findings.add(place.path, f"{place.label}{error.reason}")

    def _folder(self, where: Path, label: str, text: str, *, empty_ok: bool) -> bytes:
        """A folder as absolute path, noted for the search for overlaps; empty if there is none."""
        if not text:
            if not empty_ok:
                self.findings.add(where, f'{label}: key "{where[-1]}" must not be empty')
            return b""
        home = os.path.expanduser(text)
        if text.startswith("~") and home == text:
            self.findings.add(
                where,
                f'{label}: key "{where[-1]}": there is no home folder for '
                f'"{shown(text, NAME_LIMIT)}"; write the path out, '
                'or begin with "./" if the folder is really called so',
            )
            return b""
        asked = os.path.join(self.folder, os.fsencode(home))
        path = os.path.normpath(asked)
        real = os.path.realpath(asked)
        if os.path.realpath(path) != real:
            path = real  # `link/..` is not where the letters say, but where the system goes
        self.spots.append(spot(where, label, path))
        return path

    def _disk_limits(self, queue: QueueSettings) -> None:
        if queue.disk_stop_gb > queue.disk_low_gb:
            self.findings.add(
                ("queue", "disk_stop_gb"),
                f'[queue]: key "disk_stop_gb" ({queue.disk_stop_gb}) must not be more than '
                f'"disk_low_gb" ({queue.disk_low_gb}): admitting stops before working does',
            )

    def _state_is_local(self) -> None:
        state = next((each for each in self.spots if each.role == "state_dir"), None)
        if state is not None and is_network(state.real):
            self.findings.add(
                state.where,
                f"[daemon]: state_dir {state.text} lies on a network file system, where the ledger "
                "can be damaged; choose a folder on a local disk",
            )


def _watch_label(path: Path, table: dict[str, Any]) -> str:
    name = table.get("name")
    if isinstance(name, str) and name:
        return f'[[watch]] "{shown(name, NAME_LIMIT)}"'
    return f"[[watch]] number {int(path[-1]) + 1}"


def _header(section: str) -> str:
    return {"watch": "[[watch]]", "recipes": "[recipes.NAME]"}.get(section, f"[{section}]")


def _known() -> str:
    return ", ".join(map(_header, Settings.__struct_fields__))
