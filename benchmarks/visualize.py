"""What a visualized minute costs, against the cost of encoding frames that lie ready in memory.

    python -m benchmarks.visualize [--seconds 60] [--rounds 3]

Both sides write the same H.264 (same settings) and AAC. The limit draws nothing: ffmpeg reads raw
frames of the same film from /dev/shm (its first 10 s, over and over). CPU seconds are user + system
of the whole process tree; on a busy machine they stay comparable, wall seconds do not.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

import numpy as np

from pipeline.core.contract import Order
from pipeline.core.recipes import VisualizeOptions
from pipeline.core.stage import Work

RATE = 48_000
LOOP_SECONDS = 10
GOAL_RATIO, GOAL_RSS_MB = 1.15, 200.0


def make_music(path: Path, seconds: int) -> None:
    """A beat, a bass and voices with decays: every band moves, nothing repeats exactly."""
    rng = np.random.default_rng(7)
    scale = 55.0 * 2.0 ** (np.array([0, 3, 5, 7, 10, 12, 15, 17]) / 12)
    with wave.open(str(path), "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(RATE)
        beat = np.arange(RATE // 2) / RATE  # half a second
        for index in range(2 * seconds):
            kick = np.sin(2 * np.pi * 50 * beat + 12 * np.exp(-beat * 30)) * np.exp(-beat * 9)
            hat = rng.normal(size=len(beat)) * np.exp(-beat * 40) * 0.25
            bass = np.sin(2 * np.pi * scale[index // 4 % 3] * beat) * 0.5
            sound = kick + bass + (hat if index % 2 else 0.0)
            for voice in range(4):
                tone = scale[rng.integers(len(scale))] * 2.0 ** rng.integers(1, 6)
                wavy = np.sin(2 * np.pi * tone * beat + 2 * np.sin(2 * np.pi * tone * beat))
                sound = sound + 0.25 * wavy * np.exp(-beat * (2 + voice))
            both = np.stack((sound, np.roll(sound, 40)), axis=1) * 0.25
            out.writeframes((np.clip(both, -1, 1) * 32767).astype("<i2").tobytes())


def render(source: Path, folder: Path) -> None:
    """The visualize stage, as the worker runs it; this is the measured child."""
    from pipeline.stages import visualize

    order = Order(
        job=1,
        attempt=1,
        recipe="visualize",
        root=os.fsencode(source.parent),
        name=os.fsencode(source.name),
        mark="",
        stem=os.fsencode(source.stem),
        scratch=os.fsencode(folder),
        staging=os.fsencode(folder),
        device="cpu",
    )
    result = visualize.run(Work(order=order, options=VisualizeOptions(), beat=lambda _part: None))
    print(json.dumps({"engine": result.engine, **result.facts}))


def measured(command: list[str]) -> tuple[float, float, bytes]:
    """CPU seconds and peak resident MB of a command and its children, and what it printed."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert child.stdout is not None
    printed = child.stdout.read()
    child.stdout.close()
    _pid, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{command[0]} ended with {child.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, printed


def limit_command(raw: Path, source: Path, seconds: int, target: Path) -> list[str]:
    loops = -(-seconds // LOOP_SECONDS) - 1
    before = f"ffmpeg -v error -nostdin -y -stream_loop {loops} -f rawvideo -pix_fmt yuv420p"
    frames = f"-frames:v {30 * seconds}"
    encode = "-c:v libx264 -preset ultrafast -coder cabac -deblock 0:0 -crf 23 -c:a aac -b:a 192k"
    command = [*before.split(), "-s", "1920x1080", "-r", "30", "-i", str(raw), "-i", str(source)]
    return [*command, *frames.split(), *encode.split(), "-movflags", "+faststart", str(target)]


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--seconds", type=int, default=60)
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--render", type=Path, nargs=2, help=argparse.SUPPRESS)
    given = ask.parse_args()
    if given.render:
        render(*given.render)
        return
    with (
        tempfile.TemporaryDirectory(prefix="visualize-") as disk,
        tempfile.TemporaryDirectory(prefix="visualize-", dir="/dev/shm") as memory,
    ):
        compare(Path(disk), Path(memory), given.seconds, given.rounds)


def compare(disk: Path, memory: Path, seconds: int, rounds: int) -> None:
    source, raw = disk / "music.wav", memory / "frames.yuv"
    make_music(source, seconds)
    ours = [sys.executable, "-m", "benchmarks.visualize", "--render", str(source), str(disk)]
    _cpu, _rss, printed = measured(ours)
    print(printed.decode().strip())
    decode = ["ffmpeg", "-v", "error", "-nostdin", "-y", "-i", str(disk / "music.mp4")]
    first = ["-t", str(LOOP_SECONDS), "-f", "rawvideo", "-pix_fmt", "yuv420p", str(raw)]
    subprocess.run([*decode, *first], check=True)
    limit = limit_command(raw, source, seconds, disk / "limit.mp4")
    runs = [(measured(ours), measured(limit)) for _ in range(rounds)]
    for name, side in (("visualize", 0), ("limit", 1)):
        each = [run[side] for run in runs]
        times = " ".join(f"{cpu:.2f}" for cpu, _rss, _text in each)
        print(f"{name:10} CPU s: {times}   peak RSS MB: {max(rss for _c, rss, _t in each):.0f}")
    ratio = float(np.median([mine[0] / least[0] for mine, least in runs]))
    rss = max(mine[1] for mine, _least in runs)
    print(f"ratio {ratio:.3f} (goal <= {GOAL_RATIO}), RSS {rss:.0f} MB (goal <= {GOAL_RSS_MB:.0f})")
    size = (disk / "music.mp4").stat().st_size, (disk / "limit.mp4").stat().st_size
    print(f"bytes {size[0]} against {size[1]}")


if __name__ == "__main__":
    main()
