"""A bench for runs in this process: real memory management, nothing learned, no card."""

import threading
from collections.abc import Callable

from pipeline.core.contract import FromWorker, Usage
from pipeline.core.gauge import Gauge
from pipeline.core.memory_settings import MemorySettings
from pipeline.gpu.history import History
from pipeline.gpu.manager import Memory
from pipeline.runner import Bench


def bench_for(say: Callable[[FromWorker], None]) -> Bench:
    """What a worker's lanes share."""
    memory = Memory(MemorySettings(), Gauge(gpu=False), History.open(b":memory:"), say)
    return Bench(say=say, token=threading.Lock(), usage=Usage, memory=memory)
