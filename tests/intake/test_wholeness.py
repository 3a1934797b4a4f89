"""Files are proved whole by their containers, and cut or unfilled ones are found."""

import os
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.intake.containers.source import MAX_BYTES, MAX_READS
from daemon.intake.wholeness import Incomplete, Opaque, Verdict, Whole, check
from tests.intake import handmade as made

WHOLE: dict[str, tuple[str, bytes]] = {
    "wav": ("wav", made.wav()),
    "rf64": ("wav", made.rf64()),
    "avi": ("avi", made.avi()),
    "avi, OpenDML": ("avi", made.avi(parts=3)),
    "aiff": ("aiff", made.aiff()),
    "mp4": ("mp4", made.mp4()),
    "mp4, faststart": ("mp4", made.mp4(faststart=True)),
    "mp4, fragments": ("mp4", made.fragments()),
    "mp4, dash": ("mp4", made.listed()),
    "matroska": ("matroska", made.matroska()),
    "mp3, Info": ("mp3", made.mp3()),
    "mp3, Xing": ("mp3", made.id3() + made.mp3(mark=b"Xing")),
    "mp3, VBRI": ("mp3", made.vbri()),
    "flac": ("flac", made.flac()),
    "flac after a tag": ("flac", made.id3() + made.flac()),
    "ogg": ("ogg", made.ogg()),
}
# OpenDML parts are whole files of their own up to there.
PROVABLE = sorted(set(WHOLE) - {"avi, OpenDML"})


class Counted(BytesIO):
    """A file that counts what is read of it."""

    reads = 0
    total = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.reads += 1
        self.total += len(data)
        return data


def judge(data: bytes) -> Verdict:
    return check(BytesIO(data), len(data))


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_is_proved_whole(name: str) -> None:
    """Every container that states its length is recognised and proved."""
    kind, data = WHOLE[name]
    assert judge(data) == Whole(kind)


@pytest.mark.parametrize("name", WHOLE)
def test_half_a_file_is_broken(name: str) -> None:
    """Half a file is incomplete for good, and the reason is a plain sentence."""
    kind, data = WHOLE[name]
    verdict = judge(data[: len(data) // 2])
    assert isinstance(verdict, Incomplete)
    assert verdict.kind == kind
    assert verdict.final
    assert verdict.reason.split()[0] in ("is", "has", "stops", "ends")


@pytest.mark.parametrize("name", WHOLE)
def test_more_bytes_than_promised_are_no_flaw(name: str) -> None:
    """Tags and padding after the end leave a whole file whole."""
    kind, data = WHOLE[name]
    assert judge(data + b"TAG" + b"title".ljust(125, b"\0")) == Whole(kind)


@given(name=st.sampled_from(PROVABLE), share=st.floats(0.0, 0.98))
def test_no_prefix_is_ever_whole(name: str, share: float) -> None:
    """However a file is cut, up to 98 % of its length, it is not taken for whole."""
    _kind, data = WHOLE[name]
    assert not isinstance(judge(data[: int(share * len(data))]), Whole)


@given(data=st.binary(max_size=2000))
def test_garbage_never_raises(data: bytes) -> None:
    """Any bytes get a verdict."""
    assert isinstance(judge(data), Verdict)


@given(
    name=st.sampled_from(sorted(WHOLE)),
    patches=st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=9)), max_size=4),
    cut=st.integers(0, 20_000),
    shift=st.integers(-50, 50),
)
def test_damaged_headers_never_raise(
    name: str, patches: list[tuple[int, bytes]], cut: int, shift: int
) -> None:
    """Damaged, cut and wrongly sized files get a verdict."""
    data = bytearray(WHOLE[name][1])
    for at, patch in patches:
        data[at : at + len(patch)] = patch
    data = data[: len(data) - cut]
    assert isinstance(check(BytesIO(bytes(data)), len(data) + shift), Verdict)


def test_an_empty_file_is_broken() -> None:
    """A file without a byte is incomplete for good."""
    assert judge(b"") == Incomplete("", "is empty", final=True)


@pytest.mark.parametrize(
    ("data", "final"),
    [
        (made.wav(made.noise(9000) + bytes(90_000)), False),  # may be digital silence
        (made.mp4(made.noise(9000) + bytes(90_000), faststart=True), True),
        (made.mp4(made.noise(9000) + bytes(90_000), faststart=True, codec=b"sowt"), False),
        (made.fragments(closed=False) + bytes(90_000), False),
        (made.mp3(300)[:20_000] + bytes(417 * 301 - 20_000), True),
        (made.flac()[:9000] + bytes(90_000), True),
        (made.ogg()[:9000] + bytes(90_000), True),
        (made.matroska(length=made.UNKNOWN) + bytes(90_000), False),
        (made.noise(9000) + bytes(90_000), False),  # of no known kind
        (bytes(90_000) + made.noise(9000), False),  # its end came first
        (bytes(90_000), False),
    ],
)
def test_an_unfilled_tail_is_seen(data: bytes, final: bool) -> None:
    """Zeros at the end are incomplete: for good in coded media, a doubt where silence may be."""
    verdict = judge(data)
    assert isinstance(verdict, Incomplete)
    assert "zeros" in verdict.reason
    assert verdict.final is final


def test_an_unfilled_matroska_is_broken_unless_it_may_be_silent() -> None:
    """Zeros where the next part should be are final; zeros within plain samples are a doubt."""
    whole = made.matroska()
    big = made.element("1F43B675", made.noise(5000) + bytes(90_000))
    hole = len(whole) + len(big)
    head = made.element("1A45DFA3", b"\x42\x82\x84webm")
    for codec, final in ((b"A_OPUS", True), (b"A_PCM/INT/LIT", False)):
        segment = made.element("18538067", made.element("1654AE6B", codec) + big)
        verdict = judge(head + segment)
        assert isinstance(verdict, Incomplete)
        assert verdict.final is final
    cut = (head + segment)[:5000]
    assert judge(cut + bytes(hole)) != Whole("matroska")


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("wav", made.wav(outer=0xFFFFFFFF, data=0xFFFFFFFF)),  # ffmpeg into a pipe
        ("wav", made.wav(outer=0x7FFFF024, data=0x7FFFF000)),  # SoX and espeak-ng into a pipe
        ("wav", made.wav(outer=36, data=0)),  # a recorder that writes its header once
        ("mp4", made.fragments(closed=False)),
        ("mp4", made.FTYP + made.box(b"meta", bytes(40)) + made.box(b"mdat", b"x")),  # HEIF
        ("matroska", made.matroska(length=made.UNKNOWN)),
        ("mp3", made.mp3(mark=b"none")),
        ("flac", made.flac(samples=0)),
        ("", made.noise(5000)),
        ("", b"RIFFs are played on guitars, WAVEs on the sea"),
        ("", b"the free world"),
        ("", b"ID3 is a kind of tag, OggS is not"),
        ("", b"\xff\xfe" + "UTF-16".encode("utf-16-le")),
        ("", b"FORMULAS AIFF"),
    ],
)
def test_what_states_no_length_is_opaque(kind: str, data: bytes) -> None:
    """Live-written media and unknown formats are neither proved nor refused."""
    assert judge(data) == Opaque(kind)


@pytest.mark.parametrize(
    "data",
    [
        made.wav(b"", data=0),  # a recorder has only begun
        made.wav(outer=50_000),  # the sound is there, notes after it are missing
        made.wav(data=20_050),  # sloppy arithmetic
        made.mp3()[:-1000],  # the header's own frame, or a tag, counted twice
        made.ogg(ended=False),  # a saved web radio has no end either
        made.mp4() + made.box(b"free", bytes(100))[:50],  # only padding is missing
        made.flac() + b"APETAGEX and more",  # or a cut last frame
    ],
)
def test_a_doubt_is_not_final(data: bytes) -> None:
    """What a whole file can also look like makes it wait, never fail."""
    verdict = judge(data)
    assert isinstance(verdict, Incomplete)
    assert not verdict.final


def test_small_liberties_are_whole() -> None:
    """A RIFF length that counts its own header, and zeros after coded sound, are no flaw."""
    good = made.wav()
    assert judge(made.wav(outer=len(good))) == Whole("wav")
    assert judge(made.flac() + bytes(90_000)) == Whole("flac")
    assert judge(made.ogg() + bytes(90_000)) == Whole("ogg")
    assert judge(made.mp3() + bytes(90_000)) == Whole("mp3")


@pytest.mark.parametrize(
    "data",
    [
        made.FTYP + made.box(b"free") * 100_000,
        made.FTYP + b"\0\1\0\0moov" * 30_000,  # each within the one before
        made.FTYP + b"\0\0\0\1mdat" + b"\xff" * 8,
        made.flac(1, samples=10**6) + b"\xff\xf8\x19\x08" * 100_000,
        b"OggS\0" * 60_000,
        made.element("1A45DFA3", b"") * 40_000,
        made.element("1A45DFA3", b"") + made.element("18538067", b"\xec\x80" * 100_000),
        b"RIFF\xf0\xff\xff\x6eWAVE" + b"LIST\0\0\0\0" * 100_000,
        b"ID3\4\0\0\0\0\0\0" * 60_000,
        b"ID3\4\0\0\x7f\x7f\x7f\x7f",
    ],
)
def test_hostile_files_cost_little(data: bytes) -> None:
    """A file made to keep the reader busy is given up within the budget and never proved."""
    file = Counted(data)
    assert not isinstance(check(file, len(data)), Whole)
    assert file.reads <= MAX_READS
    assert file.total <= MAX_BYTES


def test_a_sparse_giant_is_judged_at_once(tmp_path: Path) -> None:
    """The size of a file does not matter: a huge sparse one takes a few reads."""
    path = tmp_path / "giant.flac"
    path.write_bytes(made.flac()[:9000])
    os.truncate(path, 1 << 40)
    with path.open("rb", buffering=0) as file:
        verdict = check(file, 1 << 40)
    assert isinstance(verdict, Incomplete)


SOUND = ["-f", "lavfi", "-i", "anoisesrc=d=6:a=0.5:r=44100:seed=1"]
PICTURE = ["-f", "lavfi", "-i", "testsrc2=d=6:s=160x120:r=10", "-c:v", "libx264"]
AAC = ["-c:a", "aac", "-b:a", "256k"]
REAL = {
    "a.wav": SOUND,
    "rf64.wav": [*SOUND, "-rf64", "always"],
    "a.aiff": SOUND,
    "a.avi": SOUND,
    "end.m4a": [*SOUND, *AAC],
    "front.m4a": [*SOUND, *AAC, "-movflags", "+faststart"],
    "video.mp4": [*SOUND, *PICTURE, *AAC],
    "pcm.mov": [*SOUND, "-c:a", "pcm_s16le"],
    "fragments.mp4": [*SOUND, *AAC, "-movflags", "+empty_moov", "-frag_duration", "1000000"],
    "dash.mp4": [*SOUND, *AAC, "-movflags", "+dash+global_sidx", "-frag_duration", "1000000"],
    "video.mkv": [*SOUND, *PICTURE, *AAC],
    "a.webm": [*SOUND, "-c:a", "libopus", "-b:a", "256k"],
    "a.mp3": [*SOUND, "-b:a", "320k"],
    "tagged.mp3": [*SOUND, "-b:a", "320k", "-write_id3v1", "1", "-metadata", "title=talk"],
    "a.flac": SOUND,
    "a.ogg": [*SOUND, "-c:a", "libvorbis", "-q:a", "10"],
    "a.opus": [*SOUND, "-c:a", "libopus", "-b:a", "256k"],
}


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("name", REAL)
def test_real_media(name: str, tmp_path: Path) -> None:
    """What ffmpeg writes is whole; half of it is broken; half of it with zeros is incomplete."""
    path = tmp_path / name
    command = ["ffmpeg", "-nostdin", "-v", "error", *REAL[name], f"file:{path}"]
    subprocess.run(command, check=True, timeout=60)
    with path.open("rb", buffering=0) as file:
        assert isinstance(check(file, path.stat().st_size), Whole)
    data = path.read_bytes()
    half = len(data) // 2
    cut = judge(data[:half])
    assert isinstance(cut, Incomplete)
    assert cut.final
    assert isinstance(judge(data[:half] + bytes(len(data) - half)), Incomplete)
    assert not isinstance(judge(data[: len(data) * 98 // 100]), Whole)
