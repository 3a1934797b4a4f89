"""Recipes as data: what a folder can promise, the stages that keep it, the options it takes."""

from typing import Annotated, Any, Literal

import msgspec

from pipeline.core.errors import ConfigError

AUDIO = frozenset(
    b".wav .rf64 .w64 .mp3 .m4a .m4b .aac .flac .ogg .oga .opus .wma .aiff .aif .caf .ac3 .amr "
    b".mka .mpga .ape .wv".split()
)
VIDEO = frozenset(
    b".mp4 .m4v .mov .mkv .webm .avi .ts .mts .m2ts .mpg .mpeg .vob .wmv .flv .3gp .ogv "
    b".mxf".split()
)

Positive = Annotated[int, msgspec.Meta(ge=1)]
Unit = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Colour = Annotated[
    str, msgspec.Meta(pattern=r"^#[0-9a-fA-F]{6}\Z", description='a colour such as "#35c2ff"')
]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options that a recipe takes; unknown names are refused."""


class TranscribeOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `transcribe`."""

    engine: Literal["auto", "openai-whisper", "pocketsphinx"] = "auto"
    model: str = "small"  # a Whisper model's name, or a path to a .pt file
    language: str = "auto"  # a code such as "en", or "auto"
    task: Literal["transcribe", "translate"] = "transcribe"
    prompt: str = ""  # words that help Whisper with names and style
    batch: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8  # chunks of up to 30 s decoded together
    beam: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1  # 1 is greedy
    track: Annotated[int, msgspec.Meta(ge=0)] = 0  # which audio track
    vad_threshold: Unit = 0.5
    line_chars: Annotated[int, msgspec.Meta(ge=16, le=120)] = 42  # subtitle line length
    line_count: Annotated[int, msgspec.Meta(ge=1, le=4)] = 2


class VisualizeOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `visualize`."""

    style: Literal["bars"] = "bars"
    width: Annotated[int, msgspec.Meta(ge=64, le=7680, multiple_of=2)] = 1920
    height: Annotated[int, msgspec.Meta(ge=64, le=4320, multiple_of=2)] = 1080
    fps: Annotated[int, msgspec.Meta(ge=1, le=120)] = 30
    bands: Annotated[int, msgspec.Meta(ge=8, le=256)] = 64
    colour: Colour = "#35c2ff"  # of the bars
    background: Colour = "#0b1020"
    encoder: Literal["auto", "h264_nvenc", "libx264"] = "auto"
    track: Annotated[int, msgspec.Meta(ge=0)] = 0


class NoopOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `noop`."""

    seconds: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0  # pretend work, for drills


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """The ordered stages that a watch promises."""

    name: str
    stages: tuple[str, ...]  # each is a module of pipeline.stages
    weights: tuple[float, ...]  # each stage's usual share of the time, for overall progress
    takes: frozenset[bytes]  # suffixes, lower case; empty takes every file
    options: type[Options]
    makes: tuple[str, ...]  # what lands in the outbox, for people
    about: str


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="transcribe",
            stages=("decode", "vad", "transcribe", "subtitles"),
            weights=(0.03, 0.07, 0.88, 0.02),
            takes=AUDIO | VIDEO,
            options=TranscribeOptions,
            makes=(".srt", ".vtt", ".txt", ".json"),
            about="speech to text: subtitles and a transcript",
        ),
        Recipe(
            name="visualize",
            stages=("visualize",),
            weights=(1.0,),
            takes=AUDIO | VIDEO,
            options=VisualizeOptions,
            makes=(".mp4",),
            about="a video whose bars move with the sound",
        ),
        Recipe(
            name="noop",
            stages=("noop",),
            weights=(1.0,),
            takes=frozenset(),
            options=NoopOptions,
            makes=(".noop.json",),
            about="a drill: the whole walk of a file without any work on it",
        ),
    )
}


def recipe_named(name: str) -> Recipe:
    """The recipe of that name; ConfigError if there is none."""
    try:
        return RECIPES[name]
    except KeyError:
        raise ConfigError(f"there is no recipe {name!r}", f"one of {', '.join(RECIPES)}") from None


def read_options(recipe: Recipe, given: dict[str, Any]) -> Options:
    """The options as the recipe's own record; ConfigError names the key that is wrong."""
    try:
        return msgspec.convert(given, recipe.options)
    except msgspec.ValidationError as error:
        known = ", ".join(recipe.options.__struct_fields__)
        raise ConfigError(f"options of {recipe.name}: {error}", f"known: {known}") from None
