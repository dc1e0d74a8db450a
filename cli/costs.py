"""`fiblake costs`: the costs of a lake with a given number of symbols, from counted requests and dated prices.

docs/costs.md holds the output. `UPDATE_COSTS=1 pytest tests/unit/cli/test_costs.py` writes it again, and counts the
requests of the code. Alarms and event sources are counted in `template.yaml` at each run.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import Annotated, Any, Final

import typer

from cli.output import wants_json
from cli.target import SYMBOLS_PER_CHILD
from fiblake.errors import ConfigurationError
from fiblake.lake import INTERVALS

EXAMPLE: Final = "Example: fiblake costs --symbols 5350\n\nExample: fiblake costs --symbols 5350 --symbols 50000"
PRICES_OF: Final = "late 2025"
"""On-demand prices of us-east-1, in USD."""
PUT: Final = 0.005 / 1_000
GET: Final = 0.0004 / 1_000
SQS: Final = 0.40 / 1_000_000
SNS: Final = 0.50 / 1_000_000
GB_SECOND: Final = 0.0000166667
VCPU_HOUR, GB_HOUR, ADDRESS_HOUR = 0.0122, 0.0013, 0.005  # Fargate Spot, a third of Fargate's; a public IPv4 address
TRACE: Final = 5.00 / 1_000_000
LOG_GB: Final = 0.50
STORED_GB: Final = 0.023
METRIC, ALARM, SECRET = 0.30, 0.10, 0.40  # a month each
DATABASE_HOUR, DATABASE_GB = 0.016, 0.115  # db.t4g.micro; gp3

SESSIONS, DAYS, HOURS = 21, 30, 730  # of a month


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests of a stage for one symbol and session: S3's by their price class, and those of SQS and SNS."""

    puts: float = 0
    gets: float = 0
    sqs: float = 0
    sns: float = 0


REQUESTS: Final = {
    "fetch": Requests(puts=1),  # a date file
    # EventBridge's message; taken and deleted by ten, and sent on by ten.
    "route": Requests(sqs=1.3),
    # data.parquet and the new file read, data.parquet written; merged files are deleted in lots of 20, after a listing
    # and a look. The request is taken and deleted by ten, the completion published by ten.
    "consolidate": Requests(puts=1.05, gets=2.05, sqs=0.2, sns=0.1),
    # In each interval's queue SNS's message, taken and deleted by ten; the bars are in the message.
    "resample": Requests(sqs=1.2 * len(INTERVALS)),
}
"""The requests for a session's bar of one symbol, counted in the code."""
BATCH: Final = Requests(puts=4, gets=3)
"""The requests for a batch of a thousand symbols in one interval: two month files, the checkpoint, and a listing."""
KEYS: Final = 31
"""Objects of a symbol in bronze: data.parquet, and a date file for each session of the retention."""
AUDIT: Final = Requests(puts=KEYS / 1_000, gets=4)
"""The requests for a symbol in the daily audit: its keys in the listing; data.parquet and the reference files."""

METRICS, METRIC_HOURS = 60, 60
"""Our metrics, and the hours of a month in which each is written."""
_ALARM: Final = re.compile(r"^    Type: AWS::CloudWatch::Alarm\n(?!    Condition:)", re.MULTILINE)
"""An alarm with a condition belongs to the database or to another optional part."""
_EVENT_SOURCE: Final = re.compile(r"^ +Type: SQS\n +Properties:", re.MULTILINE)
POLLS: Final = 5 * 3 * 60 * 24 * 30
"""Of an idle mapping in a month: five pollers that wait for 20 seconds each."""
JOB_START, JOB_RATE, JOB_IDLE, JOB_LAST = 20, 10, 4, 60
"""Seconds until a child works, symbols that it does in a second, seconds until it leaves, and the first child's."""
MOST_SYMBOLS: Final = 1_000_000
RESAMPLE_RATE, AUDIT_RATE, FUNCTION_GB = 150, 100, 2.94  # symbols a second, assumed
OTHER_GB_SECONDS, OTHER_PER_SYMBOL = 150, 0.028  # fetchers, router, freshness: assumed
LOG_LINES, LINE_BYTES = 8, 450

Formula = Callable[[int], tuple[float, str]]
"""A function of the number of symbols: USD, and their derivation."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    what: str
    of: Formula


@cache
def counts() -> dict[str, int]:
    """Return how many alarms and event sources the template has without a database.

    Raises ConfigurationError if there is no template: this command needs a checkout of the repository.
    """
    from local.emulator import REPOSITORY

    path = REPOSITORY / "template.yaml"
    try:
        template = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}): run this command in a checkout") from None
    return {"alarms": len(_ALARM.findall(template)), "event_sources": len(_EVENT_SOURCE.findall(template))}


def _priced(count: float, price: float, unit: str = "") -> tuple[float, str]:
    return count * price, f"{count:,.0f}{unit}"


def _total(name: str) -> float:
    return float(sum(getattr(requests, name) for requests in REQUESTS.values()))


def _month_files(symbols: int) -> tuple[float, str]:
    batches = len(INTERVALS) * (ceil(symbols / 1_000) + 1)
    return batches * (BATCH.puts * PUT + BATCH.gets * GET), f"{batches * (BATCH.puts + BATCH.gets):,.0f}"


def _job_seconds(symbols: int) -> float:
    children = ceil(symbols / SYMBOLS_PER_CHILD)
    return children * (JOB_START + JOB_IDLE) + symbols / JOB_RATE + JOB_LAST


def _fargate(symbols: int) -> tuple[float, str]:
    return _priced(_job_seconds(symbols), (2 * VCPU_HOUR + 4 * GB_HOUR + ADDRESS_HOUR) / 3600, " s")


def _audit(symbols: int) -> tuple[float, str]:
    computed = symbols / AUDIT_RATE * FUNCTION_GB * GB_SECOND
    freshness = symbols * KEYS / 1_000 * PUT  # freshness lists all of bronze as well
    return symbols * (AUDIT.puts * PUT + AUDIT.gets * GET) + computed + freshness, ""


SESSION: Final = (
    Line("S3 PUT and LIST: {puts:g}·N", lambda n: _priced(_total("puts") * n, PUT)),
    Line("S3 GET and HEAD: {gets:g}·N", lambda n: _priced(_total("gets") * n, GET)),
    Line(f"S3 of month files and checkpoints: {len(INTERVALS)} intervals, batches of 1,000 symbols", _month_files),
    Line("SQS: {sqs:g}·N", lambda n: _priced(_total("sqs") * n, SQS)),
    Line("SNS: {sns:g}·N", lambda n: _priced(_total("sns") * n, SNS)),
    Line("Fargate Spot: children of 2 vCPU and 4 GB, with an IPv4 address each", _fargate),
    Line(f"Resampler: {len(INTERVALS)} intervals, assumed 150 symbols a second, 2.94 GB",
         lambda n: _priced(len(INTERVALS) * n / RESAMPLE_RATE * FUNCTION_GB, GB_SECOND, " GB-s")),
    Line("Fetchers, router, freshness (assumed)",
         lambda n: _priced(OTHER_GB_SECONDS + OTHER_PER_SYMBOL * n, GB_SECOND, " GB-s")),
    Line("X-Ray: a trace an invocation at the most (assumed)", lambda n: _priced(50 + 0.047 * n, TRACE)),
    Line("Logs: 8 lines of 450 bytes a symbol",
         lambda n: _priced(LOG_LINES * LINE_BYTES * n / 1e6, LOG_GB / 1e3, " MB")),
)  # fmt: skip
STANDING: Final = (
    Line("bronze and silver: about 2 GB per 5,350 symbols", lambda n: _priced(2 * n / 5_350, STORED_GB, " GB")),
    Line("alarms", lambda _: _priced(counts()["alarms"], ALARM)),
    Line("metrics of ours, charged by the hour in which they are written",
         lambda _: (METRICS * METRIC * METRIC_HOURS / HOURS, f"{METRICS}")),
    Line("idle polling of the queues' mappings", lambda _: _priced(counts()["event_sources"] * POLLS, SQS)),
    Line("the vendor's secret", lambda _: _priced(1, SECRET)),
)  # fmt: skip
_FREE: Final = (
    ("10 alarms", lambda _: 10 * ALARM),
    ("10 metrics", lambda _: 10 * METRIC * METRIC_HOURS / HOURS),
    ("a million requests of SQS", lambda _: 1e6 * SQS),
    ("5 GB of logs", lambda n: min(5.0, SESSIONS * LOG_LINES * LINE_BYTES * n / 1e9) * LOG_GB),
    ("400,000 GB-s of Lambda", lambda n: min(400_000.0, _function_gb_seconds(n)) * GB_SECOND),
)
"""AWS's free allowance of every account and month."""


def _function_gb_seconds(symbols: int) -> float:
    resampling = len(INTERVALS) * symbols / RESAMPLE_RATE * FUNCTION_GB
    session = resampling + OTHER_GB_SECONDS + OTHER_PER_SYMBOL * symbols
    return SESSIONS * session + DAYS * symbols / AUDIT_RATE * FUNCTION_GB


def of_session(symbols: int) -> float:
    """Return the costs of one session."""
    return sum(line.of(symbols)[0] for line in SESSION)


def of_month(symbols: int, *, with_free: bool = False) -> float:
    """Return the costs of a month without a database; on request, less AWS's free allowance."""
    standing = sum(line.of(symbols)[0] for line in STANDING)
    free = sum(part(symbols) for _, part in _FREE) if with_free else 0
    return SESSIONS * of_session(symbols) + DAYS * _audit(symbols)[0] + standing - free


def of_database(symbols: int) -> float:
    """Return the database's costs of a month: the template's one, or one of twice the size above 10,000 symbols."""
    large = symbols > 10_000  # noqa: PLR2004 (where a micro gets too small)
    return HOURS * DATABASE_HOUR * (2 if large else 1) + (100 if large else 20) * DATABASE_GB


def table(sizes: Sequence[int]) -> str:
    """Return the costs of lakes of these sizes as a table in Markdown."""
    counted = {name: round(_total(name), 2) for name in ("puts", "gets", "sqs", "sns")}
    rows = [["USD", *(f"N = {size:,}" for size in sizes)], ["---"] * (1 + len(sizes))]
    rows += [_row(Line(line.what.format(**counted), line.of), sizes) for line in SESSION]
    rows.append(["**a session**", *(f"**{of_session(size):.3f}**" for size in sizes)])
    rows.append(["a month of 21 sessions", *(f"{SESSIONS * of_session(size):.2f}" for size in sizes)])
    rows.append([
        "a month of 30 audits and freshness checks: 4 GET a symbol, 2 listings; assumed 100 symbols a second, 2.94 GB",
        *(f"{DAYS * _audit(size)[0]:.2f}" for size in sizes),
    ])  # fmt: skip
    rows += [_row(line, sizes, 2) for line in STANDING]
    rows.append(["**a month without a database**", *(f"**{of_month(size):.2f}**" for size in sizes)])
    free = ", ".join(name for name, _ in _FREE)
    rows.append([f"the same less what AWS never charges ({free})",
                 *(f"{of_month(size, with_free=True):.2f}" for size in sizes)])  # fmt: skip
    rows.append(["Postgres: db.t4g.micro with 20 GB, or db.t4g.small with 100, and its two secrets",
                 *(f"{of_database(size) + 2 * SECRET:.2f}" for size in sizes)])  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _row(line: Line, sizes: Sequence[int], digits: int = 4) -> list[str]:
    return [line.what, *(f"{count + ' → ' if count else ''}{usd:.{digits}f}" for usd, count in map(line.of, sizes))]


def costs(
    context: typer.Context,
    symbols: Annotated[
        list[int], typer.Option(min=1, max=MOST_SYMBOLS, help="Symbols of the lake; may be given several times.")
    ],
) -> None:
    """Estimate the costs of a lake with this number of symbols, from counted requests and dated prices."""
    if wants_json(context):
        from cli.output import as_json

        facts: list[dict[str, Any]] = [
            {"symbols": n, "session": of_session(n), "month": of_month(n), "database": of_database(n)} for n in symbols
        ]
        typer.echo(as_json(facts))
        return
    typer.echo(f"us-east-1, {PRICES_OF}\n\n{table(symbols)}", nl=False)
