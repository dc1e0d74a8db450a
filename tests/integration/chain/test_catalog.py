"""The catalog as an engine sees it: the stack's Glue tables, asked through Athena (the emulator's, which is DuckDB)."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from fiblake.aggregate import SILVER, decode_silver
from fiblake.calendar import nyse
from fiblake.lake import INTERVALS, Month, silver_key
from tests.integration.conftest import Chain, bar, wait_until

MONTH = Month(2013, 2)
BARS = [bar("ATHENA", day, 20 + i) for i, day in enumerate(nyse().between(date(2013, 1, 15), date(2013, 3, 15)))]


def ask(chain: Chain, sql: str) -> Iterator[tuple[str, ...]]:
    """Yield the rows of Athena's answer, as text."""
    athena = chain.stack.client("athena")
    started = athena.start_query_execution(
        QueryString=sql,
        QueryExecutionContext={"Database": chain.stack.outputs["CatalogDatabaseName"]},
        ResultConfiguration={"OutputLocation": f"s3://{chain.stack.bucket}/athena/"},
    )["QueryExecutionId"]

    def has_ended() -> bool:
        status = athena.get_query_execution(QueryExecutionId=started)["QueryExecution"]["Status"]
        assert status["State"] != "FAILED", status["StateChangeReason"]
        return bool(status["State"] == "SUCCEEDED")

    wait_until(has_ended, "the query has ended", 30)
    pages = athena.get_paginator("get_query_results").paginate(QueryExecutionId=started)
    rows = [row["Data"] for page in pages for row in page["ResultSet"]["Rows"]]
    for row in rows[1:]:  # the first one is the header
        yield tuple(value["VarCharValue"] for value in row)


def value_of(text: str, kind: pa.DataType) -> Any:  # noqa: ANN401 (as the column's type)
    if pa.types.is_timestamp(kind):
        return datetime.fromisoformat(text).astimezone(UTC)
    if pa.types.is_boolean(kind):
        return text == "true"
    return pa.scalar(text).cast(kind).as_py()


def test_athena_answers_a_month_of_silver_with_the_rows_of_its_file(chain: Chain) -> None:
    chain.put(BARS)
    chain.wait_for_silver(BARS)
    chain.drained()

    intervals_with_rows = set()
    for n in INTERVALS:
        where = f"year = {MONTH.year} AND month = {MONTH.month}"
        answer = ask(chain, f"SELECT {', '.join(SILVER.names)} FROM silver_{n}d WHERE {where} ORDER BY symbol, ts")  # noqa: S608
        rows = [{f.name: value_of(text, f.type) for f, text in zip(SILVER, row, strict=True)} for row in answer]
        key = silver_key(n, MONTH)
        data = chain.watcher.read(key)
        assert rows == (decode_silver(data, key).to_pylist() if data else [])
        if any(row["symbol"] == "ATHENA" for row in rows):
            intervals_with_rows.add(n)
    assert intervals_with_rows == {*INTERVALS} - {34}, "no bucket of 34 sessions begins in that month"
