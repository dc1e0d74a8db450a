"""Run all benchmarks one after the other, each contestant in a separate process; then make table, JSON and picture.

python -m benchmarks [--size small|full|tenfold] [--runs N] [--only NAME ...] [--out FOLDER] [--docs]
"""

import argparse
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks import consolidate, flat_files, imports, reading, resample_full, resample_incremental, silver_outputs
from benchmarks.lake import FOLDER, FULL, SIZES, TENFOLD, Size, generated
from benchmarks.measure import PROJECT, READERS, Result, contest, plain, surroundings
from benchmarks.report import READ, drawn, markdown, printed, written_into_docs
from benchmarks.servers import client, s3_and_queues

FRACTIONS: Final = ("quarter", "half")
SLOW: Final = {"published (ROW_NUMBER, self-join)"}
"""Contestants that take minutes run once; the others run several times."""
TOPICS: Final = {
    "CONSOLIDATION_COMPLETE_TOPIC_ARN": consolidate.TOPIC,
    "SILVER_UPDATED_TOPIC_ARN": "bench-silver-updated",
}
MANY_FILES: Final = 30
NAMES: Final = ("resample_full", "s3", "reading", "flat_files", "chain", "fetch", "imports")


def main() -> int:
    """Run the selected benchmarks; return 1 if two contestants' outputs differ."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like after Ctrl-C: the servers end with their blocks
    size = SIZES[options.size]
    faults: list[str] = []
    results: list[Result] = []
    # Import it after the lake exists: making the lake, and drawing, must not be measured.
    facts = {**surroundings(), "size": size.name, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only or NAMES:
        for result in BENCHMARKS[name](size, options.runs, faults):
            sys.stderr.write(f"{result.benchmark}: {result.contestant}: {result.wall:.2f} s\n")
            results.append(result)
            # After each benchmark: a failure must not lose the results of an hour.
            report = json.dumps({"facts": facts, "results": plain(results)}, indent=1, default=str)
            (options.out / "results.json").write_text(report)
    printed(results, facts)
    drawn(results, facts, options.out / "performance.png")
    (options.out / "performance.md").write_text(markdown(results, facts))
    if options.docs:
        written_into_docs(options.out)
    for fault in faults:
        sys.stderr.write(f"outputs differ: {fault}\n")
    return 1 if faults else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure fiblake beside its peers.")
    parser.add_argument("--size", choices=("small", "full", "tenfold"), default="full")
    parser.add_argument("--runs", type=int, default=3, help="runs of each contestant, of which the median counts")
    parser.add_argument("--only", nargs="+", choices=NAMES, help="only these")
    parser.add_argument("--out", type=Path, default=FOLDER / "results", help="where JSON, picture and Markdown go")
    parser.add_argument("--docs", action="store_true", help="put the table and the picture into docs/ as well")
    return parser.parse_args()


def _resample_full(size: Size, runs: int, faults: list[str]) -> Iterator[Result]:
    """Measure all contestants on local disk and compare their outputs; then ours with less memory or fewer symbols."""
    lake = generated(size)
    with _outputs() as out:
        for contestant in resample_full.CONTESTANTS:
            if contestant == "fiblake through S3":
                continue
            yield _to_disk(contestant, out, 1 if contestant in SLOW else runs, lake=lake)
            if contestant == "fiblake":
                out.rename(out.with_name("reference"))
            else:
                unlike = silver_outputs.differences(out.with_name("reference"), out)
                faults += [f"{contestant}: {fault}" for fault in unlike]
        less = _to_disk("fiblake", out, runs, lake=lake, memory_mb=1000)
        yield replace(less, contestant="fiblake, memory 1 GB")
        for fraction in FRACTIONS if size == FULL else ():
            part = _to_disk("fiblake", out, runs, lake=generated(SIZES[fraction]))
            yield replace(part, contestant=f"fiblake, {fraction}")


@contextmanager
def _outputs() -> Iterator[Path]:
    """Return the folder to write to, in an empty one where outputs are set aside until all contestants ended.

    If they were deleted between the runs, the next run would be slower: where many files were just deleted, Linux takes
    twice as long to make files (ext4 does not use their inodes again for a minute, but looks at each of them).
    """
    folder = FOLDER / "out"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder / "contestant"
    finally:
        shutil.rmtree(folder)


def _to_disk(contestant: str, out: Path, runs: int, **options: Any) -> Result:  # noqa: ANN401 (of the contestant)
    def set_aside() -> None:
        if out.exists():
            out.rename(out.with_name(f"set-aside-{len(list(out.parent.iterdir()))}"))

    return contest("resample_full", contestant, {"out": out, **options}, runs=runs, before=set_aside)


def _through_s3(size: Size, runs: int, faults: list[str]) -> Iterator[Result]:
    """Measure on a real S3 server: the full resample, consolidation and what follows from it, and other formats."""
    yield from _on_one_server(size, runs, faults, peers=size != TENFOLD)
    for fraction in FRACTIONS if size == FULL else ():
        for result in _on_one_server(SIZES[fraction], runs, faults, peers=False):
            yield replace(result, contestant=f"{result.contestant}, {fraction}")


def _on_one_server(size: Size, runs: int, faults: list[str], *, peers: bool) -> Iterator[Result]:
    measured: dict[tuple[str, str], list[Result]] = {}
    for run in range(runs):
        with s3_and_queues(FOLDER / "servers") as servers:
            environment = servers | _topics(servers)
            os.environ.update(environment)
            consolidate.lay_lake(size)
            for result in _steps(size, environment, faults, peers=peers and run == 0):
                measured.setdefault((result.benchmark, result.contestant), []).append(result)
    yield from (_median(results) for results in measured.values())


def _topics(servers: Mapping[str, str]) -> dict[str, str]:
    sns = client("sns", servers)
    return {variable: sns.create_topic(Name=name)["TopicArn"] for variable, name in TOPICS.items()}


def _steps(size: Size, environment: dict[str, str], faults: list[str], *, peers: bool) -> Iterator[Result]:
    """Fill silver, let one session arrive, consolidate and resample it; a full resample then finds nothing to write."""
    yield contest("resample_full", "fiblake through S3", {}, environment=environment)
    yield _consolidated(size, 1, environment)
    yield contest("resample_incremental", "fiblake", {"size": size.name}, environment=environment)
    check = contest("resample_full", "fiblake through S3", {}, environment=environment)
    if check.facts["written"]:
        faults.append(f"the incremental resample left {check.facts['written']} month files other than the full one's")
    yield replace(check, contestant="fiblake through S3, nothing to write")
    if peers:
        for contestant in list(consolidate.CONTESTANTS)[1:]:
            yield contest("consolidate", contestant, {"size": size.name, "days": 1}, environment=environment)
        many = _consolidated(size, MANY_FILES, environment)
        yield replace(many, contestant=f"fiblake, {MANY_FILES} files a symbol")
        # Every symbol has a new version now, which these events bring to silver.
        for contestant in list(resample_incremental.CONTESTANTS)[1:]:
            yield contest("resample_incremental", contestant, {"size": size.name}, environment=environment)


def _consolidated(size: Size, days: int, environment: dict[str, str]) -> Result:
    consolidate.lay_new_files(size, days)
    environment["CONSOLIDATION_QUEUE_URL"] = consolidate.send_requests(size, days)
    return contest("consolidate", "fiblake", {"size": size.name, "days": days}, environment=environment)


def _median(results: Sequence[Result]) -> Result:
    ordered = sorted(results, key=lambda result: result.wall)
    return replace(ordered[len(ordered) // 2], runs=len(results))


def _reading(size: Size, _runs: int, faults: list[str]) -> Iterator[Result]:
    """Fill silver, and run the same queries on all contestants; one result for each query."""
    with s3_and_queues(FOLDER / "servers") as servers:
        environment = servers | _topics(servers)
        os.environ.update(environment)
        consolidate.lay_lake(size)
        contest("resample_full", "fiblake through S3", {}, environment=environment)
        answers: dict[str, dict[str, Any]] = {}
        for contestant in reading.CONTESTANTS:
            interpreter = READERS if contestant in reading.IN_READERS else sys.executable
            options = {"size": size.name}
            result = contest("reading", contestant, options, environment=environment, interpreter=interpreter)
            answers[contestant] = result.facts["answers"]
            unlike = reading.differences(answers[reading.OURS], answers[contestant])
            faults += [f"reading: {contestant}: {fault}" for fault in unlike]
            for question, facts in answers[contestant].items():
                shown = {name: value for name, value in facts.items() if name not in {"wall", "cpu", "sum"}}
                measured = {"wall": facts["wall"], "cpu": facts["cpu"], "runs": reading.ASKED, "facts": shown}
                yield replace(result, benchmark=f"{READ}{question}", **measured)


def _chain(size: Size, _runs: int, _faults: list[str]) -> Iterator[Result]:
    few = {"puts": 5, "crowd": 50, "crowds": 1}
    yield contest("chain", "fiblake", {} if size == FULL else few, interpreter=PROJECT)


def _fetch(size: Size, runs: int, _faults: list[str]) -> Iterator[Result]:
    with s3_and_queues(FOLDER / "servers") as environment:
        options = {"size": size.name}
        yield contest("fetch", "fiblake", options, runs=runs, environment=environment, interpreter=PROJECT)


def _flat_files(size: Size, _runs: int, faults: list[str]) -> Iterator[Result]:
    yield from flat_files.whole_history(size.name, faults)


def _imports(_size: Size, runs: int, _faults: list[str]) -> Iterator[Result]:
    runs = max(runs, 3)
    for name in imports.FUNCTIONS:
        # One process that imports several times: it unpacks the function only once.
        yield replace(contest("imports", name, {"runs": runs}, interpreter=PROJECT), runs=runs)


BENCHMARKS: Final = {
    "resample_full": _resample_full, "s3": _through_s3, "reading": _reading, "flat_files": _flat_files, "chain": _chain,
    "fetch": _fetch, "imports": _imports,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
