"""The words for a broken context, a lost card, a dead process and what only sounds like memory.

Tables only, in lower case; see `words` for how phrases are written. memory_words.py has the words
for memory itself; faults.py reads both.
"""

import re
from typing import NamedTuple

SURE, SAID, BARE = (
    3,
    2,
    1,
)  # how far a rule may be doubted: denied; only mentioned; a quiet log line
LINE_BEGIN, LINE_END = r"^[^\w\n]{0,30}", r"[^\w\n]{0,30}$"
SPENT = (  # out of GPU memory, out-of-memory, out of VRAM
    r"out[\s-]of[\s-](?:(?:gpu|cuda|device|host|system|video|graphics|main|physical|virtual|heap"
    r"|pinned|v?ram|shared|available)\s)?(?:memory|vram|ram)\b(?!\s(?:lane|cards?|sticks?|slots?)\b)"
)
API_CODE = (  # CUDA error 700, CUDA failure 700:, cudaError_t(700), cuda runtime error (77)
    r"\b(?:cuda|hip)[a-z_]{0,20}?(?: (?:runtime|driver|api))?[\s_]?(?:error|failure)"
    r"(?:_t)?(?: code)?[\s:=#(]{0,6}"
)
NO_CODE = r"\b(?!\.?\d|\s?(?:files|times|jobs|ms|mib|mb|gib|gb)\b)"  # it was another number


class Advice(NamedTuple):
    """What is said to people: what happened and what comes next."""

    reason: str
    hint: str


class Rule(NamedTuple):
    """Some words, what they mean and how sure they are."""

    words: "re.Pattern[str]"
    advice: Advice
    host: bool = False  # the host's memory, not the card's
    sure: int = SURE
    bad_otherwise: bool = True  # ambiguous rows only: without a measurement, replace the worker
    bug_with_room: bool = False  # ambiguous rows only: more than half the card free means a bug


def words(*phrases: str) -> "re.Pattern[str]":
    """One pattern for several phrases: a space stands for any white space, ` ?` for none or some.

    Quantifiers must be bounded or stay in a line: the text comes from anywhere.
    """
    spaced = (phrase.replace(" ?", r"\s*").replace(" ", r"\s+") for phrase in phrases)
    return re.compile("|".join(spaced), re.M)


POISONED = Advice(
    "the card's context is broken", "only a new worker process can use the card again"
)
AT_START = Advice("the card was full before work began", "a new worker, once there is room")
DIED = Advice("the process died", "a new worker process; the file counts one more killed worker")
KILLED = Advice("the kernel killed a process for memory", "a new worker with less host memory")
LOST = Advice("the card can not be used", "only the CPU until a probe finds the card well again")
OVERFLOW = Advice("an impossible size was asked for", "a mistake in a shape; not to be tried again")
SESSIONS = Advice("no encoder session was free", "wait for one to end, or encode on the CPU")
SOUNDS_LIKE = Advice("it sounds like memory but is not", "see the text itself")

_STICKY_NAMES = (
    "illegal_?address|launch_?fail(?:ed|ure)|launch_?timeout|assert|misaligned_?address"
    "|illegal_?instruction|hardware_?stack_?error|invalid_?address_?space|invalid_?pc"
    "|context_?is_?destroyed|ecc_?uncorrectable|nvlink_?uncorrectable"
)
_LOST_NAMES = (
    "no_?device|devices?_?unavailable|system_?not_?ready|system_?driver_?mismatch"
    "|insufficient_?driver|compat_?not_?supported_?on_?device|device_?not_?licensed"
)
_ENDED_WITH = (
    r"\b(?:exit(?:ed)?|return(?:ed|code)?|terminated|died)"
    r"(?:[\s_-](?:with|non-zero|exit|status|code|value|a)){0,5}(?:\s*[:=]\s*|\s+)"
)
_PROBES = r"(?:mem_?get_?info|get_?device_?count|_lazy_init|_cuda_init|cudasetdevice)"

STICKY = (
    Rule(
        words(
            r"illegal memory access",
            r"unspecified launch failure",
            r"device-side assert triggered",
            r"(?<!of\s)(?<!within\s)(?<!member\s)misaligned address",
            r"an illegal instruction was encountered",
            r"hardware stack error",
            r"launch timed out and was terminated",
            r"not supported on global/shared address space",
            r"invalid program counter",
            r"(?:cuda|error)[^\n]{0,40}context is destroyed",
            r"uncorrectable (?:ecc|nvlink) error",
            r"process must be terminated and relaunched",
            rf"\b(?:cuda_error_|cudaerror|hiperror_?)(?:{_STICKY_NAMES})\b",
            rf"{API_CODE}(?:214|220|7(?:00|02|09|1[04-9])){NO_CODE}",
            r"block: \[\d+,\d+,\d+\],? thread: \[\d+,\d+,\d+\] assertion",
            r"memory access fault by gpu",
            r"hsa_status_error_(?:out_of_resources|exception|memory_\w+|illegal_instruction)",
            r"\bxid\b[^\n]{0,40}: (?:13|31|43|45|48|94)\b",
            r"\bcuda(?: error:| failed with error) unknown error|(?<!cuinit\(0\) failed -> )"
            r"\bcuda_error_unknown\b|\bcudaerrorunknown\b".replace(" ", r"\s"),
            r"(?:cuda|hip) (?:error|failed with error)[^\n]{0,20}initialization error",
            r"(?:cuda|hip) (?:error|failed with error)[^\n]{0,20}driver shutting down",
        ),
        POISONED,
    ),
)

DEVICE_LOST = (
    Rule(
        words(
            r"devices?(?:\(s\))? (?:is/are|are|is) busy or unavailable",
            r"system not yet initialized",
            r"found no nvidia driver",
            r"nvidia driver on your system is too old",
            r"no (?:cuda|rocm|hip)-capable device",
            r"no (?:cuda|hip) gpus are available",
            r"unsupported display driver",
            r"forward compatibility was attempted",
            r"driver version is insufficient",
            r"driver/library version mismatch",
            r"(?:failed|unable|could not) (?:to )?initialize nvml",
            r"couldn't communicate with the nvidia driver",
            r"cuda driver initialization failed",
            r"cuda unknown error - this may be due",
            r"cuinit\(0\) failed -> cuda_error_unknown",
            r"unable to determine the device handle for gpu",
            r"\bgpu is lost",
            r"gpu (?:requires|needs an?|needs) (?:restart|reset|reboot)|gpu reset required",
            r"fallen off the bus",
            r"\bxid\b[^\n]{0,40}: (?:79|95|119|120|154)\b",
            rf"{LINE_BEGIN}no devices were found{LINE_END}",
            rf"nvml[\w:. ]{{0,30}}driver not loaded|{LINE_BEGIN}driver not loaded{LINE_END}",
            rf"\b(?:cuda_error_|cudaerror|hiperror_?)(?:{_LOST_NAMES})\b",
            r"nvml_?error_?(?:gpu_?is_?lost|gpuislost|reset_?required|driver_?not_?loaded"
            r"|lib_?rm_?version_?mismatch)",
            rf"{API_CODE}(?:46|100|80[234]){NO_CODE}",
            r"(?:vk_error_|error_?|ur_result_error_|dxgi_error_)device_?(?:lost|removed|hung)\b",
            r"\bnvml[\w ]{0,20}error:? (?:15|16)\b",
            r"\bvk::devicelosterror|gpu device instance has been suspended",
        ),
        LOST,
    ),
)

DYING = (
    Rule(
        words(
            r"out of memory: kill(?:ed)? process",
            r"\bkilled process \d+",
            r"invoked oom-killer",
            r"\boom-kill:constraint",
            r"\boom_reaper: reaped",
            r"killed by (?:the )?(?:kernel )?oom(?:[\s-]?killer)?\b",
            r"result '?oom-kill",
            r"\boomkilled\b(?!\"?\s*[:=]\s*\"?(?:false|0))",
            r"systemd-oomd[^\n]{0,20}: killed",
            r"\bkilled\b[^\n]{0,120}(?:memory pressure|low on memory|memory limit|out of memory)",
            rf"{LINE_BEGIN}killed{LINE_END}|: line \d+: \d+ killed\b",
            r"^\[\d+\][\s+-]{1,3}\d+ killed\b|was sent sigkill",
            r"is killed by signal: killed",
            r"(?:killed|terminated|died|crashed) (?:by|with|from|on|due to) (?:signal )?"
            r"(?:9\b|sigkill|<signals\.sigkill)",
            rf"signal: (?:killed|9\b)|{LINE_BEGIN}sigkill{LINE_END}",
            rf"{_ENDED_WITH}(?:137|-9){NO_CODE}",
            r"excessive memory usage causing the operating system",
        ),
        KILLED,
        host=True,
        sure=SAID,
    ),
    Rule(
        words(
            r"terminate called (?:after throwing|recursively|without)",
            r"^\s*what\(\): ",
            r"libc\+\+abi: terminating",
            r"\bggml_abort\b|\bggml_assert\b",
            r"\bin function \w+ at \S{0,200}ggml",
            r"\bggml-cuda[\w./-]{0,100}\.cuh?:\d+: ?(?:cuda error|!)",
            r"cuda error \d+ at \S{0,200}ggml",
            rf"{LINE_BEGIN}cumemcreate ?\(",
            r"fatal python error",
            r"segmentation fault",
            r"(?<!signal:\s)(?<!signal\s)\bbus error\b",
            rf"\(core dumped\)|\(signal sig(?:abrt|segv|bus)\)|{LINE_BEGIN}aborted{LINE_END}",
            r"(?:died|killed|terminated) (?:with|by|of|from) <?(?:signals\.|signal )?"
            r"sig(?:abrt|segv|bus)",
            r"\bsignal: (?:aborted|segmentation|abort trap)",
            r"(?:process|runner|worker) (?:process )?(?:has |was )?(?:been )?"
            r"(?:terminated|died|crashed)\b(?=[^\n]{0,200}(?:memory|cuda|signal|exit status))",
            r"memory allocation of \d+ bytes failed",
            r"fatal error: (?:runtime: )?(?:out of memory|cannot allocate memory)",
            r"llvm error: out of memory",
            r"double free or corruption|free\(\): invalid|malloc\(\): |munmap_chunk\(\)",
            r"malloc assertion|corrupted size vs\. prev_size|stack smashing detected",
            rf"{_ENDED_WITH}(?:134|135|139|-6|-7|-11){NO_CODE}",
        ),
        DIED,
    ),
    Rule(
        words(
            rf"{_PROBES}[^\n]{{0,200}}(?:cuda|error 2)[^\n]{{0,60}}{SPENT}",
            rf"\b(?:cuda|hip)\b[^\n]{{0,60}}{SPENT}[^\n]{{0,200}}{_PROBES}",
            rf"{_PROBES}[^\n]{{0,60}}cudaerrormemoryallocation",
            rf"cuda initialization[^\n]{{0,60}}{SPENT}",
        ),
        AT_START,
    ),
)

# Words that end the question: whatever else is said, it is no lack of memory.
NEVER_MEMORY = (
    Rule(
        words(
            r"more than 1 ?eb\b",
            r"storage size calculation overflowed",
            r"array is too big",
            r"maximum allowed dimension",
            r"called with negative number",
            r"allocate [\d.]+ ?[ezy]i?b\b",
            r"(?:allocate|size|allocating) \d{19,}\b",
            r"allocate -\d",
        ),
        OVERFLOW,
    ),
)

# Lines that do not count, whatever they sound like. The others are still read.
PASSED_OVER = (
    Rule(
        words(
            r"openencodesessionex? failed",
            r"no (?:nvenc )?capable devices found",
            r"incompatible client key",
        ),
        SESSIONS,
    ),
    Rule(
        words(
            r"out of memory \(14\)",
            r"unable to open database file",
            r"sqlite[^\n]{0,80}out of memory(?! \(7\))",
            r"static tls block",
            r"failed to mlock|rlimit_memlock|mlock[^\n]{0,80}cannot allocate",
            r"caller indicates that this is not a failure",
            r"out of resources?: (?:shared memory|registers|threads|tensor memory)",
            r"too many resources requested for launch",
            r"(?:shared memory|</?torch)[^\n]{0,120}(?:too many open files|no such file)",
            r"(?:shared memory|</?torch)[^\n]{0,120}(?:permission denied|file exists)",
            r"cannot import name|has no attribute|is not defined\b|no module named",
            r"^\s*(?:except|import|from|class|def|raise|return|with|if|elif|assert)\b"
            r"[^\n]{0,200}memory_?error",
            r"\bexcept\b[^\n]{0,80}memory_?error[\w )]{0,30}:\W{0,3}$",
            r"\b(?:isinstance|issubclass|pytest\.raises|catch) ?\([^\n]{0,200}memory_?error",
            r"no space left on device(?![^\n]{0,60}/dev/shm)|disk quota exceeded",
            r"oomkilled\"?\s*[:=]\s*\"?false",
            r"received message larger than max|using this package of onnxruntime",
            r"from a fixed pool of hardware frames",
        ),
        SOUNDS_LIKE,
    ),
)
# ffmpeg repeats the driver's word for «no session» as its own ENOMEM.
AFTER_SESSIONS = words(r"cannot allocate memory", SPENT)
