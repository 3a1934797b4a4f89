"""What the demo says at its end: where the results lie, what was heard, what was drawn."""

import os
import shlex

import msgspec

from daemon.cli.common import ledger_path
from daemon.config import read_config
from daemon.queue.reader import Reader
from daemon.settings import WatchSettings
from daemon.values import Job, State
from pipeline.core.contract import StageReport
from pipeline.core.text import human_bytes, human_seconds, shown

LINES_SHOWN = 8


def tell_results(config: str, folder: bytes) -> int:
    """Print it; exit status 0 if every job is done, else 1."""
    settings = read_config(config)
    with Reader(ledger_path(settings)) as reader:
        jobs = {job.watch: job for job in reader.jobs()}
    for watch in settings.watch:
        print()
        _tell(watch, jobs.get(watch.name))
    print()
    print(f"Everything is in {shown(folder)}:")
    print("  outbox/ the results, archive/ the originals, daemon.log what the daemon said")
    print(f"  penstock jobs --config {shlex.quote(shown(config))} lists the jobs")
    return 0 if all(job.state is State.DONE for job in jobs.values()) else 1


def _tell(watch: WatchSettings, job: Job | None) -> None:
    if job is None:
        print(f"{watch.name} ({watch.recipe}): there is no job")
        return
    if job.state is not State.DONE:
        hint = f" ({job.hint})" if job.hint else ""
        print(f"{watch.name} ({watch.recipe}): {job.state}: {shown(job.reason, 2000)}{hint}")
        return
    result = os.path.join(watch.outbox, job.target)
    took = human_seconds(sum(report.seconds for report in job.reports))
    print(f"{watch.name} ({watch.recipe}), in {took}: {shown(result)}")
    for output in job.outputs:
        print(f"  {shown(output.name)}  {human_bytes(output.size)}")
    reports = {report.stage: report for report in job.reports}
    if "transcribe" in reports:
        _tell_transcript(result, job, reports["transcribe"])
    if "visualize" in reports:
        _tell_video(reports["visualize"])


class _Transcript(msgspec.Struct):
    """The two keys of the transcript's JSON file that say whether it is a draft."""

    draft: bool = False
    fallback: str = ""


def _tell_transcript(result: bytes, job: Job, report: StageReport) -> None:
    print(f"  heard by {shown(report.engine)} on {shown(report.device)}:")
    for line in _first_lines(result, job):
        print(f"    {line}")
    told = _read_json(result, job)
    if told.draft or report.fallback:
        print("  This is a DRAFT: expect wrong words. The main engine did not run, because")
        print(f"    {shown(report.fallback or told.fallback, 2000)}")
        print("  With Whisper's weights (about 500 MB, fetched once) it does:")
        print("    penstock demo --fetch")


def _output(result: bytes, job: Job, suffix: bytes) -> bytes | None:
    """The job's own output of that suffix."""
    names = [output.name for output in job.outputs if output.name.endswith(suffix)]
    return os.path.join(result, names[0]) if names else None


def _first_lines(result: bytes, job: Job) -> list[str]:
    path = _output(result, job, b".txt")
    if path is None:
        return ["(there is no text)"]
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [shown(line.rstrip("\n")) for line in file if line.strip()]
    # The file's own note about a draft is told below, with what to do.
    lines = [line for line in lines if not line.startswith("[DRAFT")]
    return lines[:LINES_SHOWN]


def _read_json(result: bytes, job: Job) -> _Transcript:
    path = _output(result, job, b".json")
    if path is None:
        return _Transcript()
    with open(path, "rb") as file:
        return msgspec.json.decode(file.read(), type=_Transcript)


def _tell_video(report: StageReport) -> None:
    facts = report.facts
    size = f"{facts.get('width', '?')}×{facts.get('height', '?')}"
    length = human_seconds(float(facts.get("seconds", 0.0)))
    print(f"  {length}, {size}, {facts.get('fps', '?')} frames a second, {shown(report.engine)}")
    if report.fallback:
        print(f"  not encoded by the card: {shown(report.fallback, 2000)}")
