"""An error text made ready for the recogniser: plain, lower-case, without names of files.

Also says when words are only talked about: denied, expected, counted as none, or a title.
"""

import re

LIMIT = 24 * 1024  # characters looked at; of a longer text its head and, above all, its tail
FOLDED_LINES, FOLDED_WIDTH = 30, 20  # at most so many lines, of at least so many characters

_SUFFIXES = (
    "mp4|mkv|mov|avi|webm|m4v|mpe?g|m2ts|mts|wmv|flv|vob|ogv|mp3|wav|flac|m4a|aac|ogg|opus|wma"
    "|aiff?|amr|srt|vtt|ass|rttm|txt|md|log|json|csv|ya?ml|toml|html?|pdf|docx?|jpe?g|png|gif|webp"
    "|bmp|tiff?|svg|zip|tar|gz|part|onnx|gguf|safetensors"
)
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f\u00ad\u200b-\u200f\u2060\ufeff]")
_SAME = str.maketrans({"\r": "\n", "‐": "-", "‑": "-"})
_ADDRESS = re.compile(r"\b(?:https?|s3|file)://\S+")
_QUOTED = re.compile(
    "|".join(
        rf"(?<!\w){begin}[^{end}\n]{{0,300}}\.(?:{_SUFFIXES})[^\w\n{end}]{{0,2}}{end}"
        for begin, end in ("''", '""', "``", "«»", "<>", "“”", "‘’")
    )
)
_PATH = re.compile(
    rf"(?:^|(?<=[\s\"'=(\[]))[\w.~:-]{{0,100}}[/\\][^\n:\"'<>|]{{0,300}}?\.(?:{_SUFFIXES})\b", re.M
)
_FIRST = re.compile(
    rf"(?:^|(?<=: )|(?<=[(\['\"]))[^\n:\"'/\\]{{1,200}}?\.(?:{_SUFFIXES})(?=\s*:)", re.M
)
_LAST = re.compile(rf"(?:^|(?<=: ))[^\n:;,()\"'/\\]{{1,200}}?\.(?:{_SUFFIXES})$", re.M)
_LAST_WORD = re.compile(
    rf"(?:memory|\boom|memoryerror|bad_alloc|killed|lost)[)\]]?\.(?:{_SUFFIXES})\b"
)
# A sentence that ends in a file's name is no name.
_SENTENCE = re.compile(
    r"\b(?:failed|error|while|when|during|exited|crashed|reported|killed|cannot|could)\b"
    r"|memory\s+(?:on|for|in|at|from|\w+ing)\b"
)


def plain(text: str) -> str:
    """The text in lower case, without terminal codes, control characters, addresses, file names.

    Line ends stay. A file called `CUDA out of memory.mp4` must never look like the error.
    """
    if len(text) > LIMIT:
        text = f"{text[: LIMIT // 4]}\n{text[-3 * LIMIT // 4 :]}"
    text = _TERMINAL.sub("", text).translate(_SAME).replace("\\n", "\n").replace("n’t", "n't")
    text = _INVISIBLE.sub("", text).lower()
    # Single spaces and no empty lines: else a file of nothing but these takes minutes to search.
    text = "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())
    text = _ADDRESS.sub(" ", text)
    text = _QUOTED.sub(" ", text)
    text = _PATH.sub(_unless_sentence, text)
    text = _FIRST.sub(_unless_sentence, text)
    text = _LAST.sub(_unless_sentence, text)
    return _without_names_that_end_in_the_words(text)


def _unless_sentence(found: "re.Match[str]") -> str:
    return found[0] if _SENTENCE.search(found[0]) else " "


def _without_names_that_end_in_the_words(text: str) -> str:
    kept, at = [], 0
    for found in _LAST_WORD.finditer(text):
        begin = max(text.rfind(mark, at, found.start()) + 1 for mark in '\n:"/\\')
        kept.append(text[at : max(at, begin)])
        at = found.end()
    return " ".join([*kept, text[at:]])


def unfolded(text: str) -> str:
    """The text as it was before a terminal broke its lines in the middle of words; '' if none did.

    Only short texts: in a long log two lines are far more likely to be two lines.
    """
    lines = text.split("\n")
    width = max(map(len, lines))
    if len(lines) > FOLDED_LINES or width < FOLDED_WIDTH:
        return ""
    full = [len(line) >= width - 1 for line in lines]  # a space at the fold is gone by now
    return "".join(line if more else line + "\n" for line, more in zip(lines, full, strict=True))


_THINGS = r"(?:errors?|events?|kills?|exceptions?|conditions?|failures?|incidents?|problems?|oom)"
_DENIED = re.compile(
    r"\b(?:no|not|never|without|zero|none of|nor|neither|0 (?=\W*$))\W*"
    r"(?:(?:an?|any|single|more|further|new|other|such|the|gpu|cuda|host|recent)\s+){0,3}$"
)
_CLAUSE = re.compile(r"[:;,.!?(\[{|]|\s[-–—]+\s|\bbecause\b|\bdue to\b|\bas\b|\bsince\b|\bthen\b")
_TALKED_ABOUT = re.compile(
    r"\b(?:no|not|never|without|zero|none of|nor|neither|nothing|nobody|whether|n't|avoid\w*"
    r"|prevent\w*|protect\w*|against|if|unless|in case of|in the event of|recover\w*|surviv\w*"
    r"|handles?|handling of"
    r"|simulat\w*|inject\w*|pretend\w*|mock\w*|fake\w*|expects?|expected|ignor\w+|resolv\w+"
    r"|fix(?:es|ed|ing)?|solv\w+|previous\w*|earlier|number of|counts?|counter|how to|about"
    r"|what is|detection of|detects|watch\w*|looks? for|looking for|search\w*|grep|guard\w*|sure"
    r"|reduces?|fewer|risk of|chance of|likely to|used to|tests? (?:of|for)|documentation|policy"
    r"|(?:may|might|could|can|will|would|should)(?: not| later)?"
    r" (?:run|go|get|cause|lead|result)|(?:that|which|who|whenever|when) (?:runs?|goes|is|are))"
    r"\b[^:;,]{0,60}$"
)
_DEVICE_ZERO = re.compile(
    r"(?:\b(?:gpu|device|cuda|card|rank|worker|node|thread|process) |[-:#])0 $"
)
_NOTHING_HAPPENED = re.compile(
    rf"^['\"\s]*{_THINGS}?['\"\s]*(?:"
    r"(?:was|were|is|are|has|have|been)\s+(?:been\s+)?(?:not|never|no longer|handled|avoided"
    r"|prevented|fixed|solved|resolved|expected)\b"
    r"|(?:not|never)\s+(?:seen|found|detected|reported|observed|expected)\b"
    r"|(?:count|counter|total)?\s*[:=]\s*(?:0(?![.\dx])(?!\s*(?:b|bytes|[kmgt]i?b|%)\b)|none\b"
    r"|false\b|no\b|never\b)"
    r"|\?\s*no\b|(?:is|are) recogni[sz]ed\b|handled\b|handler\b"
    r"|handling (?:is|was|test|code|enabled|ok)\b"
    r"|recovery (?:finished|done|complete\w*|succeeded|works|tests?)\b|resolved\b|avoided\b"
    r"|prevented\b|fixed\b|solved\b|disabled\b|enabled\b|protection\b|guard\b|watchdog\b|policy\b"
    r"|monitor\w*\b|detect(?:ion|or)\b|simulat\w+|tests?\b|recogni[sz]er\b"
    r"|(?:killer|score)\b(?!\s+(?:killed|invoked)))"
)
_ZERO_THINGS = re.compile(rf"^['\"\s]*{_THINGS}\b")
_WENT_WELL = re.compile(r"\b(?:succeeded|recovered|went on|passed|no action needed)\b")
_TITLE = re.compile(
    r"(?:\b(?:film|movie|song|album|episode|book|title|titled|called|named|entitled|track|playlist"
    r"|phrase|words?|pattern|string|regex|grep|search\w*|matching|looking for|topic|lecture|talk"
    r"|recording|video|lyrics|tag)\b[\w\s:=(-]{0,20}[\"'«`“‘]"
    r"|\b(?:film|movie|song|album|book|titled|called|named|entitled|said|says)\s+"
    r"|\b(?:title|artist|album|genre)\s*[:=]\W*"
    r"|\b(?:subtitle|caption|lyrics|transcript|speaker ?\w*|says?|said)\W{1,3}[\"“«][^\n\"]{0,60}"
    r"|-->\s*[\d:.,]+\]?\s[^\n]*|\bspeaker_\d+\W[^\n]*)$"
)
_QUIET = re.compile(
    r"(?:^|[\s\[(|<\"=])(?:info|debug|trace|verbose|notice)(?:[\s\]):|>,\"-]|$)|^\W*\[[iv]:|^<[67]>"
)


def denied(text: str, begin: int, end: int) -> bool:
    """Whether the words at text[begin:end] stand right after a `no`, `not` or `0`."""
    before, after = _around(text, begin, end)
    if before.endswith("0 "):
        return not _DEVICE_ZERO.search(before) and bool(_ZERO_THINGS.match(after))
    return bool(_DENIED.search(before))


def only_mentioned(text: str, begin: int, end: int) -> bool:
    """Whether the words at text[begin:end] are talked about, not reported: handled, expected."""
    before, after = _around(text, begin, end)
    clause = _CLAUSE.split(before)[-1]
    return bool(
        denied(text, begin, end)
        or _TALKED_ABOUT.search(clause)
        or _NOTHING_HAPPENED.match(after)
        or _WENT_WELL.search(after)
        or _TITLE.search(before)
    )


def quiet(text: str, begin: int) -> bool:
    """Whether the line that text[begin] is in is a log line of no alarm (info, debug)."""
    line_begin = text.rfind("\n", 0, begin) + 1
    return bool(_QUIET.search(text[line_begin : min(begin, line_begin + 100)]))


def _around(text: str, begin: int, end: int) -> tuple[str, str]:
    line_end = text.find("\n", end)
    before = text[text.rfind("\n", 0, begin) + 1 : begin][-200:]
    after = text[end : line_end if line_end >= 0 else len(text)][:120]
    return before, after
