"""The guards are removed one at a time: without a guard that keeps the lake right, a scenario, a schedule or a test
must fail.

`make mutants` applies each change to a copy of the tree and runs the tests that are named with it; at least one must
fail. If the text of a change is not exactly once in its file, that is an error: update the mutant with the code.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

REPOSITORY = Path(__file__).resolve().parents[2]
COPIED = (
    "cli",
    "events",
    "fiblake",
    "local",
    "migrations",
    "services",
    "shared",
    "tests",
    "pyproject.toml",
    "template.yaml",
)
LONGEST_SECONDS = 600
CAUGHT_BY_NOTHING = "SURVIVED"
SCENARIOS = "tests/faults/test_scenarios.py"


@dataclass(frozen=True)
class Mutant:
    """One guard taken out."""

    guard: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    """pytest's arguments."""


def scenario(part: str) -> tuple[str, ...]:
    """Return pytest's arguments for the scenarios with this in their names."""
    return (SCENARIOS, "-k", part.replace(" ", "-"))


def unit(file: str, *options: str) -> tuple[str, ...]:
    """Return pytest's arguments for one file of unit tests."""
    return (f"tests/unit/{file}", *options)


CONSOLIDATE = "services/consolidator/consolidate.py"
WORKER = "services/consolidator/worker.py"
TAIL = "services/consolidator/tail.py"
RECONCILE = "services/reconcile/reconcile.py"
RESAMPLE = "services/resampler/resample.py"
SILVER_JOIN = "services/resampler/silver_join.py"
MONTH_FILES = "services/resampler/month_files.py"

MUTANTS = (
    Mutant(
        "a conditional write is conditional",
        "shared/objects.py",
        'return self._write(key, data, "create" if etag is None else {"e_tag": etag})',
        'return self._write(key, data, "overwrite")',
        scenario("a mate with the same message"),
    ),
    Mutant(
        "superseded statements are in the revisions before",
        CONSOLIDATE,
        "            if draft.revisions.num_rows:\n",
        "            if False:\n",
        unit("consolidator/test_as_of.py", "-k", "superseded"),
    ),
    Mutant(
        "a worker that writes nothing checks data.parquet again",
        CONSOLIDATE,
        "            etag = yield partial(self._check_unchanged, key, draft.etag)\n",
        '            etag = draft.etag or ""\n',
        scenario("a mate with the same message"),
    ),
    Mutant(
        "an absent data.parquet is checked again",
        CONSOLIDATE,
        "            yield partial(self._check_unchanged, key, etag)\n            raise",
        "            raise",
        scenario("a first consolidation beside a clean-up"),
    ),
    Mutant(
        "a worker that creates data.parquet reads the splits again",
        CONSOLIDATE,
        "                yield partial(self._check_reference, task.symbol, draft.after)\n",
        "                pass\n",
        unit("consolidator/test_versions.py", "-k", "first_bars"),
    ),
    Mutant(
        "a message about splits always writes a version",
        CONSOLIDATE,
        "        and not task.reference_changed\n",
        "",
        scenario("splits are put"),
    ),
    Mutant(
        "splits are read after data.parquet, not taken from it",
        CONSOLIDATE,
        "            reference, reference_faults = yield partial(self._read_reference, task.symbol, reference)\n",
        "            _, reference_faults = yield partial(self._read_reference, task.symbol, reference)\n",
        scenario("splits are put"),
    ),
    Mutant(
        "dividends are read when they arrive",
        CONSOLIDATE,
        "    if task.full or task.reference_changed or task.changed_from is None or",
        "    if task.full or task.changed_from is None or",
        unit("consolidator/test_dividends.py", "-k", "beside_a_bar"),
    ),
    Mutant(
        "versions grow whatever the clocks say",
        CONSOLIDATE,
        "max([now, *(at + TICK for at in older)])",
        "now",
        scenario("a bar is restated there and back"),
    ),
    Mutant(
        "what changes more than the message says is announced",
        CONSOLIDATE,
        "                    yield partial(announce, earlier)\n",
        "",
        scenario("a bar arrives beside a foreign"),
    ),
    Mutant(
        "a named file is merged whatever the log says",
        CONSOLIDATE,
        "        sources, faults = self._decode_all(objects, now)\n",
        "        log = before.log if before else {}\n"
        "        sources, faults = self._decode_all([o for o in objects if o and o.key not in log], now)\n",
        scenario("a bar is restated there and back"),
    ),
    Mutant(
        "the first bar that shows a split changes all before it",
        CONSOLIDATE,
        "        if _reveals_split(after, changed) or (task.withdrawn and after.reference.splits):\n",
        "        if task.withdrawn and after.reference.splits:\n",
        scenario("a mate with the same message"),
    ),
    Mutant(
        "a version in the log is an ETag and an instant",
        "fiblake/source_log.py",
        "    return version is not None and version.is_version(etag, last_modified)\n",
        "    return version is not None and version.etag == etag\n",
        scenario("an audit finds"),
    ),
    Mutant(
        "a log names versions, not keys",
        "fiblake/source_log.py",
        "        if self.etag != etag:\n            return False\n",
        "",
        scenario("a vacuum beside a restatement within"),
    ),
    Mutant(
        "a deletion names the version",
        "shared/objects.py",
        '[{"Key": key, "ETag": etag} for key, etag in versions]',
        '[{"Key": key} for key, _ in versions]',
        scenario("a vacuum beside a restatement"),
    ),
    Mutant(
        "a file without instants is kept as long as its bytes may be put again",
        "shared/cleanup.py",
        "        and (log[info.key].stamped or info.last_modified < put_before)\n",
        "",
        scenario("a vacuum beside the same bytes"),
    ),
    Mutant(
        "the proof of a deletion is checked again",
        "shared/cleanup.py",
        "if versions[proof.symbol] == proof.etag]",
        "if proof.symbol in versions]",
        unit("shared/test_cleanup.py"),
    ),
    Mutant(
        "the last write wins",
        "services/consolidator/merge.py",
        '("timestamp", "ingested_at", *TIE_ORDER)',
        '("timestamp", *TIE_ORDER, "ingested_at")',
        scenario("a bar is restated there and back"),
    ),
    Mutant(
        "of equal instants the greater row wins",
        "services/consolidator/merge.py",
        '[(name, "ascending", "at_start") for name',
        '[(name, "descending" if name == "close" else "ascending", "at_start") for name',
        unit("consolidator/test_merge.py"),
    ),
    Mutant(
        "an event that was not published is a failure",
        WORKER,
        "        unsent = {changed[i].symbol for i in self.complete.publish(events)}\n",
        "        unsent = set[str](changed[i].symbol for i in self.complete.publish(events)[:0])\n",
        scenario("a worker that cleans up"),
    ),
    Mutant(
        "a manifest that was not written is a failure",
        WORKER,
        "        if isinstance(written, FiblakeError):\n",
        "        if isinstance(written, FiblakeError) and not consolidated:\n",
        unit("consolidator/test_worker.py", "-k", "manifest"),
    ),
    Mutant(
        "the event before the clean-up",
        WORKER,
        "        unpublished = self._publish(consolidated, _origins(requests))\n",
        "        self._clean_up(consolidated)\n        unpublished = self._publish(consolidated, _origins(requests))\n",
        unit("consolidator/test_worker.py", "-k", "data_then_event"),
    ),
    Mutant(
        "a worker waits for the messages that it returned",
        WORKER,
        " and polls >= due:",
        ":",
        unit("consolidator/test_worker.py", "-k", "waited_for"),
    ),
    Mutant(
        "a message that failed is not deleted",
        "shared/outcomes.py",
        "    queue.retry_later(message)\n    return False\n",
        "    queue.retry_later(message)\n    return True\n",
        scenario("a worker that cleans up"),
    ),
    Mutant(
        "a dead letter that was refused stays in its queue",
        "shared/outcomes.py",
        '            logger.warning("dead letter refused", extra={**fields, "fault": str(fault)})\n',
        "            return bool(fault)\n",
        unit("shared/test_outcomes.py"),
    ),
    Mutant(
        "what SQS and SNS did not take is sent again, or reported",
        "shared/queues.py",
        "        return batch\n",
        "        return []\n",
        scenario("arrivals are routed"),
    ),
    Mutant(
        "arrivals whose requests no job will drain come again",
        "services/consolidator/router.py",
        "        if arrival.symbols and no_job:\n            return no_job\n",
        "",
        scenario("arrivals are routed"),
    ),
    Mutant(
        "a running job does not count as waiting",
        "shared/jobs.py",
        '= ("SUBMITTED", "PENDING", "RUNNABLE")\n',
        '= ("SUBMITTED", "PENDING", "RUNNABLE", "RUNNING")\n',
        scenario("a first consolidation beside a clean-up"),
    ),
    Mutant(
        "what the audit enqueues is drained",
        RECONCILE,
        "ceil(sent / self.symbols_per_child)) if sent else None",
        "ceil(sent / self.symbols_per_child)) if sent < 0 else None",
        scenario("an audit finds"),
    ),
    Mutant(
        "a letter is sent before it is deleted",
        "shared/dead_letters.py",
        "        letters.delete(sent)\n",
        "        letters.delete(part)\n",
        scenario("dead letters are replayed"),
    ),
    Mutant(
        "the greater version wins",
        SILVER_JOIN,
        "    beaten = covered & (_versions(old) < update.versions[owners] + wins_ties)\n",
        "    beaten = covered\n",
        scenario("an event comes after"),
    ),
    Mutant(
        "a bucket's rows win as a whole, or not at all",
        SILVER_JOIN,
        "    wins = ~np.isin(_places(new_owners, new_starts), _places(owners[stays], starts[stays]))\n",
        "    wins = np.ones(len(new_owners), dtype=bool)\n",
        scenario("an event comes after"),
    ),
    Mutant(
        "rows get the new version although their values are the same",
        MONTH_FILES,
        "elif changed and self.whole and is_alike and",
        "elif changed and is_alike and",
        scenario("an event comes after"),
    ),
    Mutant(
        "a conflict means: read the month file again",
        MONTH_FILES,
        "        written = self.store.update(key, change, absent=absent)\n",
        "        data = change(s.data if (s := self.store.find(key)) else None)\n"
        "        written = data and self.store.put(key, data)\n",
        scenario("a live resampler beside"),
    ),
    Mutant(
        "a tail is used only if it reaches the first bucket",
        RESAMPLE,
        "        return None if begin < tail.tail_from else _SymbolBars(bars, first, last)\n",
        "        return _SymbolBars(bars, first, last)\n",
        unit("resampler/test_rules.py", "-k", "tail"),
    ),
    Mutant(
        "a tail is used only if it holds the bar before the change",
        RESAMPLE,
        "        if before < 0 and tail.tail_from > self.calendar.session(0):\n            return None\n",
        "",
        unit("resampler/test_rules.py", "-k", "tail"),
    ),
    Mutant(
        "no tail across a split",
        TAIL,
        "    splits = any(tail_from < day <= stored.last_session for day, _ in reference.splits)\n",
        "    splits = False\n",
        unit("consolidator/test_tail.py"),
    ),
    Mutant(
        "rows carry the version of the bars they were computed from",
        "fiblake/bars.py",
        "_reference(file.metadata), _last_updated(file.metadata, last_modified)\n",
        "_reference(file.metadata), last_modified\n",
        scenario("a full resample beside"),
    ),
    Mutant(
        "a row that a newer update lacks goes",
        SILVER_JOIN,
        "old.filter(pa.array(~beaten))",
        "old.filter(pa.array(~(beaten & np.isin(_places(owners, starts), _places(new_owners, new_starts)))))",
        unit("resampler/test_silver_join.py"),
    ),
    Mutant(
        "the two rows of a handover are of one bucket",
        "fiblake/buckets.py",
        "np.minimum(ordinals, self.calendar.sessions.size - 1) // self.interval * self.interval)",
        "np.minimum(ordinals, self.calendar.sessions.size - 1))",
        unit("resampler/test_rules.py", "-k", "handover"),
    ),
    Mutant(
        "a row that begins on no session is of the next session's bucket",
        "fiblake/buckets.py",
        "np.searchsorted(self.calendar.sessions, days)",
        """np.maximum(np.searchsorted(self.calendar.sessions, days, side="right") - 1, 0)""",
        unit("resampler/test_silver_join.py"),
    ),
    Mutant(
        "a row is in the month of its bucket's first session",
        "services/resampler/months.py",
        "self.numbers[buckets.begins - buckets.begins % interval]",
        "self.numbers[buckets.begins]",
        unit("resampler/test_rules.py", "-k", "handover"),
    ),
    Mutant(
        "a row is removed from the wrong month after it is in the right one",
        MONTH_FILES,
        "postponed = postponed and not last",
        "postponed = False",
        unit("resampler/test_rules.py", "-k", "wrong"),
    ),
    Mutant(
        "events of one batch are joined one by one",
        RESAMPLE,
        """                round_ = next((round_ for round_ in rounds if change.symbol not in round_), None)
                if round_ is None:
                    rounds.append(round_ := {})
                round_[change.symbol] = tailed
""",
        """                rounds = rounds or [{}]
                first = min(tailed.first, rounds[0].get(change.symbol, tailed).first)
                rounds[0][change.symbol] = _SymbolBars(tailed.bars, first, tailed.last)
""",
        unit("resampler/test_rules.py", "-k", "one_batch"),
    ),
    Mutant(
        "a tail ends with the event's last session",
        RESAMPLE,
        " or tail.timestamp[-1] != change.last_session",
        "",
        unit("resampler/test_rules.py", "-k", "tail"),
    ),
    Mutant(
        "no tail before an announced handover",
        TAIL,
        "any(day > tail_from for day in reference.handovers)",
        "any(tail_from < day <= stored.last_session for day in reference.handovers)",
        unit("consolidator/test_tail.py"),
    ),
    Mutant(
        "no tail with a number that is not finite",
        TAIL,
        "if not np.isfinite(numbers).all():",
        "if not numbers.size:",
        unit("consolidator/test_tail.py"),
    ),
    Mutant(
        "beside another program's data.parquet all files are listed",
        CONSOLIDATE,
        "before is None or before.adopted or task.lists",
        "before is None or task.lists",
        unit("consolidator/test_versions.py", "-k", "adopted"),
    ),
    Mutant(
        "a message that names no file makes the worker list them",
        CONSOLIDATE,
        "before.adopted or task.lists or task.full",
        "before.adopted or task.full",
        unit("consolidator/test_versions.py"),
    ),
    Mutant(
        "a day's bar needs no listing",
        CONSOLIDATE,
        "        days = task.retention_days\n        return days is not None and is_lot_due",
        "        days = task.retention_days or 1\n        return days is not None or is_lot_due",
        unit("consolidator/test_versions.py", "-k", "three_requests"),
    ),
    Mutant(
        "the version is above the floor",
        CONSOLIDATE,
        "for at in (before and before.last_updated, floor) if at]",
        "for at in (before and before.last_updated,) if at]",
        unit("consolidator/test_versions.py", "-k", "floor"),
    ),
    Mutant(
        "a version at or below the floor is written again",
        CONSOLIDATE,
        "\n        and (floor is None or before.last_updated > floor)",
        "",
        unit("consolidator/test_versions.py", "-k", "floor"),
    ),
    Mutant(
        "a request with a floor reports all of the history",
        WORKER,
        " or request.version_floor is not None",
        "",
        unit("consolidator/test_worker.py", "-k", "floor"),
    ),
    Mutant(
        "the audit detects silver that is ahead of data.parquet",
        RECONCILE,
        "elif stored and stored.last_updated < version:",
        "elif stored and not version:",
        unit("reconcile/test_heals.py", "-k", "put_back"),
    ),
    Mutant(
        "the audit detects a manifest that is ahead of data.parquet",
        RECONCILE,
        'if entry and entry["last_updated"] > stored.last_updated:',
        'if entry and not entry["last_updated"]:',
        unit("reconcile/test_heals.py", "-k", "put_back"),
    ),
    Mutant(
        "a rebuild wins ties only",
        SILVER_JOIN,
        "(_versions(old) < update.versions[owners] + wins_ties)",
        "((_versions(old) < update.versions[owners]) | wins_ties)",
        unit("resampler/test_rules.py", "-k", "rebuild"),
    ),
    Mutant(
        "rows without a version have the oldest one",
        "fiblake/aggregate.py",
        '_ADDED_TO_SILVER: Final = {"adjusted": False, "version": OLDEST_VERSION}',
        '_ADDED_TO_SILVER: Final = {"adjusted": False, "version": LATEST_VERSION}',
        unit("resampler/test_rules.py", "-k", "schema_1_0"),
    ),
    Mutant(
        "an event without a version makes the resampler read data.parquet",
        RESAMPLE,
        "tail is None or change.version is None or",
        "tail is None or",
        unit("resampler/test_rules.py", "-k", "tail"),
    ),
    Mutant(
        "rows of two calendars are never mixed",
        MONTH_FILES,
        "        if not is_alike:\n            rows = self._without",
        "        if rows is None:\n            rows = self._without",
        unit("resampler/test_calendar_change.py"),
    ),
    Mutant(
        "all files of the other calendar are cut again, not only the event's",
        RESAMPLE,
        "            first = earlier\n",
        "            continue\n",
        unit("resampler/test_calendar_change.py"),
    ),
    Mutant(
        "files are cut again one after the other, oldest first",
        "services/resampler/full.py",
        "dict.fromkeys(INTERVALS, 0), at_once=1)",
        "dict.fromkeys(INTERVALS, 0), at_once=8)",
        unit("resampler/test_calendar_change.py", "-k", "oldest_first"),
    ),
    Mutant(
        "a newer row of the other calendar is not dropped",
        MONTH_FILES,
        "            if is_newer:\n",
        "            if is_newer is None:\n",
        unit("resampler/test_calendar_change.py"),
    ),
    Mutant(
        "recomputation begins at the bar before the change",
        "fiblake/buckets.py",
        "    return bucket_start(int(ordinals[before - 1]) if before else changed, interval)\n",
        "    return bucket_start(changed, interval)\n",
        unit("fiblake/test_buckets.py"),
    ),
    Mutant(
        "a scope of noted files that cannot be settled stops no other",
        "services/fetcher/doubts.py",
        '                except FiblakeError as error:\n                    logger.warning("noted',
        '                except NotImplementedError as error:\n                    logger.warning("noted',
        unit("fetcher/test_ohlcv.py", "-k", "cannot_be_settled"),
    ),
    Mutant(
        "details are saved by company, not by the first day of its record",
        "services/fetcher/metadata.py",
        "await self.database.save_details(records)",
        "await self.database.save_metadata(records)",
        unit("fetcher/test_metadata.py", "-k", "moves_meanwhile"),
    ),
    Mutant(
        "a history leaves out companies of other types",
        "services/fetcher/history.py",
        "return ours or companies",
        "return companies",
        unit("fetcher/test_history.py", "-k", "leaves_out"),
    ),
    Mutant(
        "of many stored files few are in memory at once",
        "services/fetcher/flat_files/stored.py",
        "chunks(keys, FILES_AT_ONCE)",
        "chunks(keys, len(keys))",
        unit("fetcher/test_filling_a_lake.py", "-k", "few_are_in_memory"),
    ),
    Mutant(
        "of many unclaimed rows few are in memory at once",
        "services/fetcher/flat_files/before_listing.py",
        "chunks(symbols, len(symbols), MOST_ROWS, unclaimed.rows.__getitem__)",
        "chunks(symbols, len(symbols))",
        unit("fetcher/test_filling_a_lake.py", "-k", "some_at_a_time"),
    ),
    Mutant(
        "broken bars of one flat file that are put in parts do not replace each other",
        "shared/quarantine.py",
        'lambda row: (row["source"], row["symbol"])',
        'lambda row: row["source"]',
        unit("fetcher/test_flat_files.py", "-k", "share_one_object"),
    ),
)


def main() -> int:
    """Run all mutants, or those whose guard has the argument in its name; print a table. 1: something survived."""
    wanted = [mutant for mutant in MUTANTS if all(part in mutant.guard for part in sys.argv[1:])]
    processes = int(os.environ.get("WORKERS", "2"))
    with TemporaryDirectory(prefix="fiblake-mutants-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(processes):
            copies.put(_copy(Path(folder) / str(number)))
        with ThreadPoolExecutor(processes) as pool:
            verdicts = pool.map(partial(_verdict, copies), wanted)
            survivors = sum(_show(mutant, verdict) for mutant, verdict in zip(wanted, verdicts, strict=True))
    sys.stdout.write(f"{len(wanted)} mutants, {survivors} survived\n")
    return 1 if survivors or not wanted else 0


def _show(mutant: Mutant, verdict: str) -> bool:
    sys.stdout.write(f"{mutant.guard:<64} {mutant.file:<40} {verdict}\n")
    sys.stdout.flush()
    return verdict == CAUGHT_BY_NOTHING


def _copy(folder: Path) -> Path:
    """Copy the parts of the tree that the tests need."""
    folder.mkdir()
    for name in COPIED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def _verdict(copies: "SimpleQueue[Path]", mutant: Mutant) -> str:
    """Apply a mutant to one of the copies, and return the test that fails without the guard."""
    copy = copies.get()
    file = copy / mutant.file
    original = file.read_text(encoding="utf-8")
    if original.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.file} holds {original.count(mutant.old)} times, not once: {mutant.old!r}")
    file.write_text(original.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        return _first_failure(copy, mutant.tests)
    finally:
        file.write_text(original, encoding="utf-8")
        copies.put(copy)


def _first_failure(copy: Path, tests: Sequence[str]) -> str:
    options = ["-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", "-rf"]
    command = [sys.executable, "-B", "-m", "pytest", *options, *tests]
    try:
        ran = subprocess.run(command, cwd=copy, check=False, capture_output=True, text=True, timeout=LONGEST_SECONDS)
    except subprocess.TimeoutExpired:
        return f"{tests[0]} does not end"
    if ran.returncode == 0:
        return CAUGHT_BY_NOTHING
    failed = [line.partition(" - ")[0] for line in ran.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if ran.returncode != 1 or not failed or failed[0].startswith("ERROR"):
        raise SystemExit(f"{' '.join(command)} ends with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
    return failed[0].removeprefix("FAILED ")


if __name__ == "__main__":
    sys.exit(main())
