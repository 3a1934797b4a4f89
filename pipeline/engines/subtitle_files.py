"""pysubs2: subtitle cues as the text of .srt and .vtt files."""

from collections.abc import Callable, Sequence

import pysubs2

from pipeline.core.cues import Cue

VERSION = f"pysubs2 {pysubs2.VERSION}"

# pysubs2 takes these for styling; no spoken word needs them.
_NO_STYLE = str.maketrans({"{": "(", "}": ")", "\\": "/"})
_VTT = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def srt_text(cues: Sequence[Cue]) -> str:
    """A whole .srt file; one empty line if there is no cue."""
    return _file(cues, "srt", _srt_escaped) if cues else "\n"


def vtt_text(cues: Sequence[Cue], note: str = "") -> str:
    """A whole .vtt file; the note is for who opens the file, players do not show it."""
    text = _file(cues, "vtt", _vtt_escaped)
    remark = " ".join(_vtt_escaped(note).split())
    return text.replace("WEBVTT\n", f"WEBVTT\n\nNOTE {remark}\n", 1) if remark else text


def _file(cues: Sequence[Cue], kind: str, escaped: Callable[[str], str]) -> str:
    file = pysubs2.SSAFile()
    for cue in cues:
        text = r"\N".join(escaped(line).translate(_NO_STYLE) for line in cue.lines)
        file.append(pysubs2.SSAEvent(start=cue.start, end=cue.end, text=text))
    return file.to_string(kind)


def _srt_escaped(line: str) -> str:
    # The format knows no escapes; an arrow would make a line of text look like a line of times.
    return line.replace("-->", "->")


def _vtt_escaped(line: str) -> str:
    return line.translate(_VTT)
