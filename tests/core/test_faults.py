"""Tests of pipeline/core/faults.py: each library's words for no memory, and what sounds like it."""

import ast
import signal
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import faults
from pipeline.core.faults import Finding, Kind, classify, find, from_exit, library
from tests.gpu import corpus

GIB = 1 << 30
MEMORY = corpus.CARD_FULL + corpus.HOST_FULL

# What a text goes through on its way: wrapped, re-raised, read as bytes, coloured, folded.
WRAPPED: dict[str, Callable[[str], str]] = {
    "upper case": str.upper,
    "lower case": str.lower,
    "its class": lambda text: f"RuntimeError: {text}",
    "file and line": lambda text: f"/opt/app/stage.py:42: {text}",
    "a cause": lambda text: f"StageFailed: stage 3 failed\nCaused by: {text}",
    "a log line": lambda text: f"2026-01-12 10:00:00,123 ERROR penstock.worker: {text}",
    "a rank": lambda text: f"[rank0]: {text}",
    "a traceback": lambda text: (
        f'Traceback (most recent call last):\n  File "room.py", line 3, in zoom\n    go()\n{text}'
    ),
    "bytes cut in a character": lambda text: (b"\xe2\x82" + text.encode() + b"\xff\xc3").decode(
        errors="replace"
    ),
    "surrogates": lambda text: (text.encode() + b"\xff").decode(errors="surrogateescape"),
    "UTF-16 read as bytes": lambda text: text.encode("utf-16-le", "replace").decode("latin-1"),
    "colours": lambda text: f"\x1b[1;31m{text}\x1b[0m",
    "no-break spaces": lambda text: text.replace(" ", "\u00a0"),
    "Windows lines": lambda text: text.replace("\n", "\r\n") + "\r\n",
    "folded at words": lambda text: "\n".join(textwrap.wrap(text, 37)),
    "much before and after": lambda text: "fps=25\n" * 60 + text + "\nexit status 1\n" * 40,
    "repr": lambda text: repr(text)[1:-1].replace("\\\\", "\\"),
}


def test_the_corpus_is_large() -> None:
    """At least 60 texts of no memory and 60 look-alikes are tried."""
    assert len(set(MEMORY)) >= 60
    assert len(set(corpus.LOOK_ALIKES)) >= 60


@pytest.mark.parametrize("text", [*MEMORY, *corpus.MORE_FULL])
def test_no_memory_is_recognised(text: str) -> None:
    """Each library's words for no memory ask for a recovery in this process."""
    assert classify(text) is Kind.RECOVER


@pytest.mark.parametrize("text", [*corpus.LOOK_ALIKES, *corpus.MORE_LOOK_ALIKES])
def test_look_alikes_are_left_alone(text: str) -> None:
    """What only sounds like memory is not taken for it."""
    assert classify(text) is Kind.NOT_MEMORY


@pytest.mark.parametrize("text", [*corpus.REPLACE, *corpus.MORE_REPLACE])
def test_the_dead_and_the_poisoned_are_replaced(text: str) -> None:
    """A broken context or a dead process asks for a new worker, even if memory is the reason."""
    assert classify(text) is Kind.REPLACE_WORKER


@pytest.mark.parametrize("text", [*corpus.LOST, *corpus.MORE_LOST])
def test_a_lost_card_is_told_apart(text: str) -> None:
    """A card that nobody can use is neither full nor this worker's fault."""
    assert classify(text) is Kind.DEVICE_LOST


@pytest.mark.parametrize(("text", "unmeasured", "full", "free"), corpus.AMBIGUOUS)
def test_a_measurement_decides_what_words_can_not(
    text: str, unmeasured: str, full: str, free: str
) -> None:
    """Words that may mean either follow the free memory; unmeasured, they get their usual kind."""
    assert classify(text) == unmeasured
    assert classify(text, free=GIB // 4, total=12 * GIB) == full
    assert classify(text, free=10 * GIB, total=12 * GIB) == free


@pytest.mark.parametrize(
    ("free", "total", "kind"),
    [
        (512 * faults.MIB - 1, 4 * GIB, Kind.RECOVER),
        (512 * faults.MIB, 4 * GIB, Kind.REPLACE_WORKER),
        (5 * GIB, 139 * GIB, Kind.RECOVER),  # 4 % of a big card is more than 512 MiB
        (6 * GIB, 139 * GIB, Kind.REPLACE_WORKER),
        (100 * faults.MIB, None, Kind.RECOVER),
    ],
)
def test_where_short_begins(free: int, total: int | None, kind: Kind) -> None:
    """A card is short of memory below 512 MiB, or below 4 % of it on a big one."""
    text = "CUDA error: CUBLAS_STATUS_INTERNAL_ERROR"
    assert classify(text, free=free, total=total) is kind


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapping_hides_nothing(name: str) -> None:
    """The same text is recognised in any case, behind prefixes, as bytes, coloured or folded."""
    wrap = WRAPPED[name]
    wrong = [text for text in MEMORY if classify(wrap(text)) is not Kind.RECOVER]
    assert not wrong


@pytest.mark.parametrize(
    "name",
    ["upper case", "lower case", "a log line", "bytes cut in a character", "colours", "surrogates",
     "no-break spaces", "Windows lines", "much before and after", "a cause"],
)  # fmt: skip
def test_wrapping_makes_nothing_up(name: str) -> None:
    """A look-alike stays one in any case, behind prefixes, as bytes or in the middle of a log."""
    wrap = WRAPPED[name]
    wrong = [text for text in corpus.LOOK_ALIKES if classify(wrap(text)) is not Kind.NOT_MEMORY]
    assert not wrong


def test_the_end_of_a_long_log_is_read() -> None:
    """Megabytes of log before an error do not hide it, and are not searched."""
    log = "size= 1024kB time=00:00:01 bitrate=2097.2kbits/s\n" * 40_000
    assert classify(log + MEMORY[0]) is Kind.RECOVER
    assert classify(log + corpus.REPLACE[0]) is Kind.REPLACE_WORKER
    assert classify(log + corpus.LOOK_ALIKES[8]) is Kind.NOT_MEMORY


def test_a_text_folded_inside_words_is_read() -> None:
    """A terminal that broke the lines inside words does not hide a library's own message."""
    text = "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 4.00 GiB total)"
    folded = "\n".join(text[at : at + 29] for at in range(0, len(text), 29))
    assert classify(folded) is Kind.RECOVER


def test_all_look_alikes_together_are_still_none() -> None:
    """A whole log of look-alikes gives no false alarm."""
    assert classify("\n".join(corpus.LOOK_ALIKES)) is Kind.NOT_MEMORY


def test_the_order_of_the_tables() -> None:
    """A broken context outweighs a lost card, that a dead process, that an impossible size."""
    lack = "CUDA out of memory. Tried to allocate 2.00 GiB."
    sticky = "CUDA error: an illegal memory access was encountered"
    lost = "GPU is lost"
    dead = "terminate called after throwing an instance of 'c10::Error'"
    overflow = "CUDA out of memory. Tried to allocate more than 1EB memory."
    assert classify(f"{lack}\n{sticky}\n{lost}") is Kind.REPLACE_WORKER
    assert classify(f"{lack}\n{lost}\n{dead}") is Kind.DEVICE_LOST
    assert classify(f"{lack}\n{dead}\n{overflow}") is Kind.REPLACE_WORKER
    assert classify(f"{lack}\n{overflow}") is Kind.NOT_MEMORY


def test_one_excluded_line_does_not_hide_another() -> None:
    """A missing encoder session in the same log does not hide that torch ran out of memory."""
    sessions = "[h264_nvenc @ 0x5] OpenEncodeSessionEx failed: out of memory (10): (no details)"
    assert classify(f"{sessions}\nError opening encoder: Cannot allocate memory") is (
        Kind.NOT_MEMORY
    )
    assert classify(f"{sessions}\ntorch.OutOfMemoryError: CUDA out of memory.") is Kind.RECOVER


@pytest.mark.parametrize(
    ("text", "who"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "torch"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "cublas"),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "cudnn"),
        ("cuFFT error: CUFFT_ALLOC_FAILED", "cufft"),
        ("RuntimeError: CUDA failed with error out of memory", "ctranslate2"),
        ("[ONNXRuntimeError] : 6 : CUDA failure 2: out of memory ; GPU=0", "onnxruntime"),
        ("ggml_backend_cuda_alloc_buffer: cudaMalloc failed: out of memory", "llama.cpp"),
        ("[h264_nvenc @ 0x5] CreateInputBuffer failed: out of memory (10)", "nvenc"),
        ("Unable to allocate 20.0 GiB for an array with shape (3,)", "numpy"),
        ("std::bad_alloc", "host"),
        ("good morning", "unknown"),
    ],
)  # fmt: skip
def test_who_speaks(text: str, who: str) -> None:
    """The library that wrote the text is named."""
    assert library(text) == who
    assert find(text).library == who


def test_the_card_and_the_host_are_told_apart() -> None:
    """A finding says whose memory ran out."""
    assert not [text for text in corpus.CARD_FULL if find(text).host]
    assert not [text for text in corpus.HOST_FULL if not find(text).host]


def test_a_finding_speaks_plainly() -> None:
    """Every finding that asks for something has a reason and a next step."""
    for text in (*MEMORY, *corpus.REPLACE, *corpus.LOST):
        found = find(text)
        assert found.reason
        assert found.hint


def test_an_unknown_failure_of_a_gpu_library_is_to_be_checked() -> None:
    """An error of CUDA in unknown words asks for a look at the card; a missing file does not."""
    assert find("CUDA error: some new words").check_device
    assert find("cuDNN error: CUDNN_STATUS_BAD_PARAM").check_device
    assert not find("No such file or directory").check_device
    assert not find("MemoryError").check_device


def test_codes_without_words() -> None:
    """A bare CUDA error code is enough."""
    assert classify("CUDA error 2") is Kind.RECOVER
    assert classify("CUDA failure 2") is Kind.RECOVER
    for code in (214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719):
        assert classify(f"CUDA error {code}") is Kind.REPLACE_WORKER
    for code in (46, 100, 802, 803):
        assert classify(f"CUDA error {code}") is Kind.DEVICE_LOST
    assert classify("CUDA error 1") is Kind.NOT_MEMORY
    assert classify("CUDA error count: 2 files") is Kind.NOT_MEMORY


@given(
    st.text(
        alphabet=st.characters(
            exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="/\\:'\""
        ),
        max_size=30,
    ),
    st.sampled_from(["CUDA out of memory", "Out of Memory", "MemoryError", "GPU is lost", "OOM"]),
    st.sampled_from([".mp4", ".wav", ".mkv", ".txt", ".m4a"]),
)
def test_a_file_name_is_never_an_error(part: str, words: str, suffix: str) -> None:
    """Whatever a dropped file is called, its quoted name alone raises no alarm."""
    for name in (f"{words} {part}{suffix}", f"{part} {words}{suffix}"):
        text = f"[Errno 2] No such file or directory: '/in/{name}'"
        assert classify(text) is Kind.NOT_MEMORY


@given(
    st.text(max_size=300) | st.binary(max_size=300).map(lambda data: data.decode(errors="replace"))
)
def test_any_text_gets_an_answer(text: str) -> None:
    """No text, however strange, raises or stays without a kind."""
    found = find(text)
    assert isinstance(found, Finding)
    assert found.kind in Kind
    assert find(text) == found


@pytest.mark.parametrize(
    ("status", "tail", "oom_kills", "kind", "host"),
    [
        (0, ["CUDA out of memory"], None, Kind.NOT_MEMORY, False),
        (1, ["x.mp4: Invalid data"], None, Kind.NOT_MEMORY, False),
        (1, ["Error while filtering: Cannot allocate memory"], None, Kind.RECOVER, True),
        (1, ["MemoryError"], 0, Kind.RECOVER, True),
        (-9, [], 1, Kind.REPLACE_WORKER, True),
        (-9, [], None, Kind.REPLACE_WORKER, True),
        (-9, [], 0, Kind.REPLACE_WORKER, False),
        (137, [], 2, Kind.REPLACE_WORKER, True),
        (-6, ["terminate called after throwing an instance of 'std::bad_alloc'"], None,
         Kind.REPLACE_WORKER, True),
        (-6, ["  what():  CUDA failed with error out of memory"], None, Kind.REPLACE_WORKER, False),
        (-6, ["CUDA error: out of memory", "ggml_abort"], None, Kind.REPLACE_WORKER, False),
        (-6, [], None, Kind.REPLACE_WORKER, False),
        (-11, [], None, Kind.REPLACE_WORKER, False),
        (139, ["Segmentation fault"], None, Kind.REPLACE_WORKER, False),
        (-6, ["CUDA failed with error no CUDA-capable device is detected"], None,
         Kind.DEVICE_LOST, False),
        (255, ["Conversion failed!"], None, Kind.NOT_MEMORY, False),
    ],
)  # fmt: skip
def test_how_a_child_ended(
    status: int, tail: list[str], oom_kills: int | None, kind: Kind, host: bool
) -> None:
    """A child's return code, its last words and the kernel's count of kills give one finding."""
    found = from_exit(status, tail, oom_kills)
    assert (found.kind, found.host) == (kind, host)


def test_the_signal_is_named() -> None:
    """A child that a signal ended is described with the signal's name."""
    assert signal.SIGSEGV.name in from_exit(-int(signal.SIGSEGV), [], None).reason


def test_the_recogniser_is_light() -> None:
    """The recogniser imports nothing but the standard library, msgspec and its own tables."""
    here = Path(faults.__file__).parent
    allowed = {"re", "signal", "collections", "enum", "typing", "msgspec", "pipeline"}
    for name in ("faults.py", "fault_text.py", "fault_words.py", "memory_words.py"):
        for node in ast.walk(ast.parse((here / name).read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= allowed
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] in allowed
