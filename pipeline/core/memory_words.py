"""The words in which each library, driver and system call says that memory ran out.

Tables only, in lower case, written as fault_words.py says; faults.py reads them.
"""

import re

from pipeline.core.fault_words import (
    API_CODE,
    BARE,
    LINE_END,
    NO_CODE,
    SAID,
    SPENT,
    Advice,
    Rule,
    words,
)

CARD_FULL = Advice("the card ran out of memory", "free what is cached, then a smaller batch")
HOST_FULL = Advice("the host ran out of memory", "a smaller piece of the file at a time")
PINNED = Advice("no pinned host memory was left", "go without pinning; the batch may stay")
SHARED = Advice("no shared memory was left", "a larger /dev/shm (Docker: --shm-size), or no fork")
UNCLEAR = Advice("a GPU library failed", "free memory at that time tells whether memory was short")

_SIZE = r"[\d.,]+ ?(?:bytes|[kmgtp]i?b)\b"
_REFUSED = (
    r"(?:cannot|can not|can't|could ?n[o']t|unable to|fail(?:ed|s)? to|failure to"
    r"|failed when trying to|not able to)"
)
_VERB = r"(?:\(?re\)?)?alloc(?:ate[ds]?)?"
_AMOUNT = (
    r"(?:bytes?|[kmgt]i?b|memory|v?ram|\w*buffers?|tensors?|arrays?|workspace|context|heap|space"
    r"|frames?(?! from a fixed pool)|pictures?|packets?|extradata|images?|planes?|strings?|objects?"
    r"|side data|structures?)\b"
)
_CLASS = r"(?<!['\"\w])(?:<class ')?(?:[a-z_]\w{0,60}\.){0,8}_?"
_CLASS_END = (
    r"(?:'>)?(?=\s*(?:[:(,;.!\]]|\W{0,3}$)"
    r"| (?:in|at|on|while|when|during|raised|traceback)\b)"
)

_SHARED = words(
    r"unable to allocate shared memory",
    r"(?:dataloader|workers?)[^\n]{0,60}out of shared memory",
    r"(?:error while creating|couldn't allocate) shared memory segment",
    r"no space left on device[^\n]{0,60}/dev/shm|/dev/shm[^\n]{0,80}no space left on device",
)
_PINNED = words(
    r"pinned memory: out of memory",
    r"\balloc(?:ate|ating|ation)?\b[^\n]{0,60}\bpinned (?:host )?memory",
    r"(?:pin_memory|pin memory thread|cudahostalloc|cudamallochost|cumemhostalloc)"
    r"[^\n]{0,120}\n?[^\n]{0,120}out of memory",
)
_TORCH = words(
    rf"tried to allocate {_SIZE}(?=[^\n]{{0,400}}(?:gpu|cuda|pytorch|hip|mps))",
    r"(?:cuda|hip|xpu|npu|musa|gpu) out of memory[^\w\n]+(?:tried|allocation was)",
    r"mps backend out of memory",
    r"allocation was preemptively rejected",
    r"would exceed (?:the )?allowed memory",
    r"pytorch limit \(set by|free \(according to cuda\)",
    r"\bcurrently allocated :",
    r"is reserved by pytorch but unallocated|reserved in total by pytorch",
    r"reserved (?:but unallocated )?memory is (?:large|>>)",
    r"including non-pytorch memory, this process has",
    r"nvml_success == \S{1,80} internal assert failed",
    r"oom trying to allocate workspace|not enough memory for workspace",
    r"invalid buffer size: [\d.]+ ?[kmgt]i?b",
)
_GPU_LIBRARIES = words(
    r"\b(?:cublas|cusolver|cusparse|cusparselt|hipblas|curand|cufft|hipfft|nvjpeg)"
    r"(?:_status)?_alloc(?:ation|ator)?_fail(?:ed|ure)",
    r"\b(?:cublas|cusolver) failure 3\b|\bcudnn failure 2\b|\bcufft failure 2\b",
    r"rocblas_status_memory_error|miopenstatusallocfailed",
    rf"(?:cuda|cublas|cudnn) failed with error {SPENT}",
    rf"{API_CODE}2{NO_CODE}",
    r"available memory of \w+ is smaller than requested",
    r"failed to allocate memory for requested buffer",
    r"cudamalloc\w{0,20} failed",
    r"\b(?:cuda_error_|nv_enc_err_|vk_error_|ur_result_error_|pi_error_|cl_|hiperror_?|error)"
    r"out_?of_?(?:device_?|host_?|pool_?)?memory\b",
    r"cudaerrormemoryallocation|cl_mem_object_allocation_failure|cl_out_of_resources",
    r"ur_result_error_out_of_resources|kiogpucommandbuffercallbackerroroutofmemory",
    r"(?:createbitstreambuffer|createinputbuffer|encodepicture) failed!?: out of memory",
    r"creat(?:ing|e) cuda context[^\n]{0,30}: 0x2\b",
    r"resource_?exhausted(?:error)?\b[^\n]{0,200}(?:out of memory|oom\b|allocat)",
    r"\boom when allocating tensor",
    r"(?:requested amount of|unable to allocate enough) gpu memory",
    r"not enough free memory for allocation|device memory allocation of size \d+ failed",
    r"error code 2: outofmemory",
    r"batch_size \( ?\d+\) is probably too large|until memory error disappears",
    r"no available memory for the cache blocks",
    r"requires more (?:\w+ )?memory [^\n]{0,40}than (?:is )?available",
    r"(?:free|available) (?:gpu )?memory [^\n]{0,80}(?:less|smaller) than (?:the )?"
    r"(?:desired|required|requested)",
)
_ARRAY = words(r"defaultcpuallocator", rf"unable to allocate {_SIZE} for an array")
_HOST = words(
    r"\bcannot allocate memory\b",
    r"\[?errno:? 12\b|\benomem\b|\[winerror (?:8|14|1455)\]|paging file is too small",
    r"\berror code 12\b|e_outofmemory|not enough memory resources are available",
    r"\bbad_alloc\b|\bbad allocation\b",
    rf"{_CLASS}(?:_?array|insufficient|host)?memoryerror{_CLASS_END}",
    rf"{_CLASS}lang\.outofmemoryerror{_CLASS_END}",
    r"buy new ram",
    r"\bmalloc of size \d+ failed",
    r"\b(?:av_)?(?:m|c|re)alloc[a-z]{0,8}(?:\(\))? (?:failed|returned null)",
    r"insufficient memory for the java runtime|allowed memory size of \d+ bytes exhausted",
    r"unable to mmap (?:memory|[\d\s]{0,25}bytes)",
    rf"tried to allocate {_SIZE}",
)
_CARD_SAID = words(
    r"\b(?:cuda|hip|gpu|device|driver|nccl|cudnn|cublas|xpu|mps|npu|metal|vulkan|opencl|vram"
    rf"|onnx\w*|tensorrt)\b[\w\s:='\"‘“(\[#,.*/<>-]{{0,60}}?\b(?P<at>{SPENT})",
    rf"{_CLASS}(?<!lang\.)(?:out_?of_?|device|gpu|cuda)memoryerror{_CLASS_END}",
    r"(?:gpu|device) \d+ has a total capac[a-z]{0,3}ty of [\d.]+ \w+ of which [\d.]+ \w+ is free",
    r"unable to allocate \w+ buffer",
    r"unable to allocate (?:\w+ )?backend buffer|failed to allocate (?:compute|context)",
    r"fail(?:ed|ure) to (?:allocate|reserve|create) (?:\w+ )?"
    r"(?:compute|kv|backend|cuda\d*|rocm\d*|vulkan\d*|metal|cpu|sched)\w* (?:\w+ )?buffers?",
)
_BARE = words(
    SPENT,
    r"\bout_?of_?memory_?(?:error|exception)\b|(?<=:\s)outofmemory\b",
    r"\bnot enough (?:\w+ ){0,2}(?:memory|vram|ram)\b(?! (?:cards?|sticks?|slots?|bandwidth))",
    r"\binsufficient[\s_](?:\w+ )?(?:memory|vram|ram)\b(?! bandwidth)",
    rf"\b{_REFUSED} (?:be )?{_VERB} (?:[^\n]{{0,80}}?\b{_AMOUNT}|\w{{1,30}}->)",
    rf"\b{_REFUSED} (?:be )?(?:reserve|commit|mmap)\b[^\n]{{0,80}}?\b{_AMOUNT}",
    r"\b(?:memory|buffers?|frame|frames|context) (?:cannot|could not|can not) be (?:re)?allocated",
    r"\bfail(?:ed|ure)? (?:allocate|allocating|allocation of) (?:memory|buffers?)",
    r"\b(?:allocat(?:ion of|ing|e)) (?:\w+ ){0,2}memory failed",
    r"\balloc(?:ation)? failed \( ?[%\d]|\balloc [%\w]+ bytes failed",
    r"(?:^|: )alloc(?:ation)? fail(?:ed|ure)",
    r"failed to find a free memory block",
    r"\b(?:memory|buffer|tensor|vram|host|device) (?:re)?alloc(?:ation)?s?\b[^.\n]{0,60}\b"
    r"(?:fail(?:ed|ure|s)?|refused|rejected)\b",
    r"\bno (?:more |free )?memory (?:left|available)\b|\bno more memory\b",
    rf"\berror allocating (?:[^\n]{{0,40}}?\b{_AMOUNT})",
    r"\bfailed (?:memory|buffer|tensor) allocation|memory allocation still failed",
    r"allocation of (?:size )?[\d.]+ ?\w* failed",
    r"\b(?:memory|heap|vram|swap)(?: space)? (?:is )?exhausted|\bexhausted (?:\w+ )?memory\b",
    r"\bexceed(?:s|ed|ing)? (?:the )?(?:\w+ )?memory limit|memory limit (?:was )?exceeded",
    r"\bexceed(?:s|ed|ing)? (?:the )?(?:available|free|physical|gpu|device|total) memory",
    r"\breached (?:the )?memory limit|\b(?:gpu memory|device memory|vram) (?:is )?full\b",
    r"\b(?:does not|doesn't|do not) fit (?:in|into|on) (?:the )?(?:\w+ )?(?:memory|vram|ram)\b",
    r"\bheap limit\b[^\n]{0,40}allocation failed|java heap space",
    r"\b(?:cuda|gpu|host|device|vram|ram|cpu|got an?|hit|hits|caught|ran into|an) oom\b",
    r"\boom (?:error|when|while|trying|during|at|in|on)\b",
    rf"(?:^|: )[^\w\n]{{0,5}}oom{LINE_END}",
)

SHARED_MEMORY = (Rule(_SHARED, SHARED, host=True),)  # before its «no space left» is a full disk's

OUT_OF_MEMORY = (
    Rule(_PINNED, PINNED, host=True),
    Rule(_TORCH, CARD_FULL),
    Rule(_GPU_LIBRARIES, CARD_FULL),
    Rule(_ARRAY, HOST_FULL, host=True),
    Rule(_CARD_SAID, CARD_FULL, sure=SAID),
    Rule(_HOST, HOST_FULL, host=True, sure=SAID),
    Rule(_BARE, HOST_FULL, host=True, sure=BARE),
)

# Either may be meant. Little free: memory. Else, and where nothing was measured: as the row says.
AMBIGUOUS = (
    Rule(
        words(r"\bcudnn_status_\w{0,40}alloc(?:ation)?_failed|\bcudnn_status_not_supported\b"),
        UNCLEAR,
        bad_otherwise=False,
    ),
    Rule(
        words(
            r"\b(?:get|find) was unable to find an engine",
            r"unable to find a valid cudnn algorithm",
            r"assigned to device cpu but fused",
            r"failed to create (?:the )?llama_?context",
            r"image size too big to run face detection on gpu",
        ),
        UNCLEAR,
        bad_otherwise=False,
        bug_with_room=True,
    ),
    Rule(
        words(
            r"\b(?:cublas|cusolver|cusparse|cudnn|cufft|curand|hipblas|rocblas|miopen)"
            r"(?:_status)?_(?:not_initialized|internal_error\w*|execution_failed\w*|exec_failed"
            r"|setup_failed|mapping_error|initialization_failed)",
            r"\bcublas failure (?:1|11|13|14)\b|\bcudnn failure (?:1|4|8|11)\b",
            r"\bmiopenstatus(?:internalerror|unknownerror)|\brocblas_status_internal_error",
        ),
        UNCLEAR,
    ),
)

# A GPU library failed in words that nobody knows: try the card before its next use.
SUSPECT = words(
    r"\b(?:cuda|cudnn|cublas|cufft|cusolver|cusparse|nvrtc|hip|nccl)\w{0,40}[^\n]{0,60}"
    r"(?:error|fail|status_)"
)

OF_THE_CARD = words(
    r"\b(?:gpu|cuda|vram|hip|mps|xpu|nccl)|cupy|tensorrt|ctranslate2|\bjax|\bvk_?|vulkan|ggml"
    r"|device \d|llama"
)

LIBRARIES: tuple[tuple[str, "re.Pattern[str]"], ...] = (
    ("sqlite", words("sqlite|database file")),
    ("nvenc", words(r"nvenc|openencodesession|createbitstreambuffer|createinputbuffer|nv_enc")),
    (
        "llama.cpp",
        words(r"ggml|llama|cudamalloc failed|backend buffer|alloc_tensor_range|fused gated"),
    ),
    (
        "onnxruntime",
        words(r"onnx|bfc_?arena|available memory of \w+ is|(?:cuda|cublas|cudnn) failure"),
    ),
    ("ctranslate2", words(r"ctranslate2|(?:cuda|cublas|cudnn) failed with (?:error|status)")),
    ("cublas", words(r"cublas|hipblas|rocblas")),
    ("cudnn", words(r"cudnn|miopen|unable to find an engine")),
    ("cufft", words("cufft|hipfft")),
    ("cusolver", words("cusolver|cusparse")),
    ("nccl", words(r"\bnccl")),
    ("pyannote", words(r"pyannote|is probably too large")),
    ("tensorrt", words(r"tensorrt|\btrt\b|outofmemory \(no")),
    (
        "tensorflow",
        words(r"tensorflow|gpu_\d_bfc|oom when allocating tensor|resourceexhaustederror"),
    ),
    ("jax", words(r"\bjax|\bxla|resource_exhausted")),
    ("cupy", words("cupy")),
    ("opencv", words(r"opencv|\bcv2\b|\(-4:insufficient")),
    ("numpy", words(r"numpy|for an array with shape|_arraymemoryerror")),
    (
        "torch",
        words(
            r"torch|(?:cuda|hip|mps backend|xpu) out of memory|defaultcpuallocator|c10::|dataloader"
            r"|acceleratorerror|cudacachingallocator|would exceed allowed memory|\bcuda error:"
        ),
    ),
    ("ffmpeg", words(r"ffmpeg|cuvid|libx26|\[\w{1,30} @ 0x|avcodec|x26[45]")),
    ("vulkan", words(r"\bvk_?|vulkan")),
    ("nvml", words("nvml|nvidia-smi")),
    ("driver", words(r"cuda|nvidia|\bxid\b|\bhip|\bgpu\b")),
    (
        "host",
        words(r"memory|bad_alloc|errno 12|kill|\boom|alloc|terminate|abort|segmentation|dumped"),
    ),
)
