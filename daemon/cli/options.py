"""`--option KEY=VALUE` as options of a recipe, checked like those of the config."""

from collections.abc import Iterable
from typing import Any

import tomli

from daemon.checks import Findings, Place, check_table, fields_of, wrong_with
from pipeline.core.errors import ConfigError
from pipeline.core.recipes import Recipe, read_options
from pipeline.core.text import shown


class WrongOption(Exception):
    """The command line names an option that the recipe does not have, or a wrong value for it."""


def parse_options(pairs: Iterable[str], recipe: Recipe, defaults: dict[str, Any]) -> dict[str, Any]:
    """The defaults and what was asked for over them; WrongOption says what is wrong with it.

    A value is read as TOML writes it where that fits, else as plain text: `language=en`.
    """
    fields = fields_of(recipe.options)
    given: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign:
            raise WrongOption(f"{shown(pair)} is no KEY=VALUE")
        value = _toml(text)
        field = fields.get(key)
        if field is not None and wrong_with(field.type, value):
            value = value if wrong_with(field.type, text) else text
        given[key] = value
    findings = Findings("")
    place = Place(path=(), label="", subject=f'option "{{}}" of {recipe.name}')
    good = check_table(findings, place, given, fields)
    if findings.problems:
        raise WrongOption("; ".join(problem.text for problem in findings.problems))
    try:
        read_options(recipe, defaults | good)
    except ConfigError as error:
        raise WrongOption(str(error)) from None
    return defaults | good


def _toml(text: str) -> object:
    """The value that the text is in TOML; the text itself if it is none."""
    try:
        table = tomli.loads(f"value = {text}\n")
    except (ValueError, RecursionError):
        return text
    return table["value"] if len(table) == 1 else text
