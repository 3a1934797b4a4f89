"""Names that are nobody's drop are ignored, each for a reason that a person understands."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.intake.ignore import why_ignored, why_not_taken, why_unfinished
from pipeline.core.recipes import AUDIO, VIDEO

names = st.binary(max_size=60)


@pytest.mark.parametrize(
    "name",
    [
        ".hidden", "._talk.wav", "~$report.docx", "talk.part", "talk.partial",
        "talk.mp4.crdownload", "talk.download", "talk.tmp", "TALK.TMP", "talk.temp",
        "talk.filepart", "talk.!sync", "talk.bts", "talk.!ut", "talk.!qB", "talk.!QB",
        ".syncthing.talk.wav.tmp", "~syncthing~talk.wav.tmp", ".stfolder/x.wav",
        ".stversions/x.wav", "@eaDir/talk.wav/SYNOAUDIO", "@eaDir/talk.wav", "#recycle/talk.wav",
        ".fuse_hidden0001", ".nfs000", ".smbdelete1", ".goutputstream-ABC", "talk.swp",
        "Thumbs.db", "thumbs.DB", "desktop.ini", "Desktop.ini", ".DS_Store",
        ".Trash-1000/files/x.wav", ".Spotlight-V100/x", "__MACOSX/x.wav", ".talk.wav.Xy3aBc",
        "talk.mediad-part", "talk.wav.penstock.json", "talk.wav.penstock.toml",
        ".penstock-0123.part", ".penstock/x.wav", "talk.wav.FAILED.txt", "$RECYCLE.BIN/x.wav",
        "lost+found/x.wav", "talk.mp4.aria2", "talk.mp4.ytdl", ".~lock.talk.odt#", "a/b/.c/d.wav",
    ],
)  # fmt: skip
def test_ignored_names(name: str) -> None:
    """Every name of the list is ignored, also below a folder and as a folder."""
    assert why_ignored(name.encode())
    assert why_ignored(b"folder/" + name.encode())
    assert why_ignored(name.encode() + b"/talk.wav")


def test_names_with_spaces_are_ignored_too() -> None:
    """Windows' own folder is known in any case."""
    assert why_ignored(b"System Volume Information/x")
    assert why_ignored(b"SYSTEM VOLUME INFORMATION/x")


@pytest.mark.parametrize(
    "name",
    [
        b"talk.wav", b"part.wav", b"a/b/c.mp3", b"my.part.wav", b"tmp/talk.wav", b"~talk.wav",
        b"notes.txt", b"failed.txt", b"eaDir/x.wav", b"a.b.Xy3aBc", b"bad\xff\xfe.mp4",
        b"line\nbreak.wav", b"penstock.toml", b"-y.mp4", "größe.wav".encode(), b"#1.wav",
    ],
)  # fmt: skip
def test_a_drop_is_looked_at(name: bytes) -> None:
    """Names that only resemble the list are drops."""
    assert why_ignored(name) == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b".talk.wav.Xy3aBc", "a temporary name of rsync"),
        (b".hidden", "hidden"),
        (b".talk.wav", "hidden"),
        (b"talk.wav.penstock.json", "Penstock's own receipt"),
        (b".syncthing.talk.tmp", "a temporary name of Syncthing"),
        (b".nfs0001", "deleted, but still open somewhere"),
    ],
)
def test_the_reason_names_the_program(name: bytes, reason: str) -> None:
    """The most telling reason wins over the general one."""
    assert why_ignored(name) == reason


@given(names, names)
def test_a_folder_is_a_reason_for_all_below_it(folder: bytes, name: bytes) -> None:
    """What lies in an ignored folder is ignored, and any name gets an answer."""
    reason = why_ignored(folder)
    if reason:
        assert why_ignored(folder + b"/" + name) == reason


@pytest.mark.parametrize(
    "other",
    [
        b"talk.mp4.part", b"talk.mp4.crdownload", b"talk.mp4.filepart", b"talk.mp4.aria2",
        b"talk.mp4.!qB", b"talk.Xy3_ab-d.mp4.part",
    ],
)  # fmt: skip
def test_a_final_name_waits_for_its_partial_file(other: bytes) -> None:
    """A browser's final name is not finished while the partial file lies beside it."""
    siblings = frozenset((b"talk.mp4", b"other.mp4", other))
    assert other.decode() in why_unfinished(b"folder/talk.mp4", siblings)
    assert why_unfinished(b"folder/other.mp4", siblings) == ""


def test_a_strange_partial_name_is_shown_harmlessly() -> None:
    """Terminal codes and line breaks of a name do not reach the reason."""
    name = b"a\x1b[2J\nb.mp4"
    reason = why_unfinished(name, frozenset((name, name + b".part")))
    assert reason.isprintable()


@given(names, st.frozensets(names, max_size=5))
def test_unfinished_only_for_a_reason_beside_it(name: bytes, siblings: frozenset[bytes]) -> None:
    """A name without a partial file beside it is never held back."""
    partial = any(other.endswith((b".part", b".download", b".bts")) for other in siblings)
    if why_unfinished(name, siblings):
        assert partial or any(b"." in other for other in siblings)
    assert why_unfinished(name, frozenset((name,))) == ""


def test_what_a_recipe_takes() -> None:
    """A suffix counts in any case; a recipe without a list takes everything."""
    takes = AUDIO | VIDEO
    assert why_not_taken(b"a/talk.WAV", takes) == ""
    assert why_not_taken(b"talk.xyz", frozenset()) == ""
    assert ".xyz" in why_not_taken(b"talk.xyz", takes)
    assert "no suffix" in why_not_taken(b"a.wav/talk", takes)
    assert why_not_taken(b"talk.\x1b[2J\n", takes).isprintable()
