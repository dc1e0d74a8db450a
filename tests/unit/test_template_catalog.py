"""The catalog in template.yaml: its tables have the schemas' columns, and their partitions are the lake's folders."""

from functools import cache
from typing import Any, Final

import pyarrow as pa
import pytest

from fiblake.aggregate import SILVER
from fiblake.bars import BRONZE
from fiblake.calendar import nyse
from fiblake.lake import INTERVALS, Bronze, Month, silver_key
from tests.unit.variants import EVERYTHING, LOCAL, deployed, properties

GLUE_TYPES: Final = {
    pa.string(): "string", pa.date32(): "date", pa.float64(): "double", pa.int64(): "bigint", pa.int32(): "int",
    pa.bool_(): "boolean", pa.timestamp("us", tz="UTC"): "timestamp",
}  # fmt: skip
BUCKET: Final = "s3://${DataLakeBucket}/"
NAMES: Final = (*(f"silver_{n}d" for n in INTERVALS), "bronze_files")


@cache
def tables_by_name() -> dict[str, dict[str, Any]]:
    """Return the local variant's tables; not at import, because the transform takes seconds in each test process."""
    tables = properties(deployed(LOCAL), "AWS::Glue::Table").values()
    return {table["TableInput"]["Name"]: table["TableInput"] for table in tables}


def silver_table(n: int) -> dict[str, Any]:
    return tables_by_name()[f"silver_{n}d"]


def bronze_table() -> dict[str, Any]:
    return tables_by_name()["bronze_files"]


def columns(schema: pa.Schema, *, without: tuple[str, ...] = ()) -> list[dict[str, str]]:
    return [{"Name": f.name, "Type": GLUE_TYPES[f.type]} for f in schema if f.name not in without]


def folder(table: dict[str, Any], **values: str) -> str:
    """Return the folder in which an engine searches the partition with these values."""
    template: str = table["Parameters"]["storage.location.template"]
    for name, value in values.items():
        digits = int(table["Parameters"].get(f"projection.{name}.digits", "0"))
        template = template.replace(f"${{!{name}}}", value.zfill(digits))
    assert "${!" not in template
    return template.removeprefix(BUCKET)


def test_every_variant_has_one_database_with_a_table_for_each_interval_and_one_for_bronze() -> None:
    for variant in (LOCAL, EVERYTHING):
        resources = deployed(variant)
        tables = properties(resources, "AWS::Glue::Table").values()
        assert len(properties(resources, "AWS::Glue::Database")) == 1
        assert {table["DatabaseName"]["Ref"] for table in tables} == {"CatalogDatabase"}
    assert sorted(tables_by_name()) == sorted(NAMES)


@pytest.mark.parametrize("n", INTERVALS)
def test_a_silver_table_has_the_columns_of_the_month_files(n: int) -> None:
    assert silver_table(n)["StorageDescriptor"]["Columns"] == columns(SILVER)
    assert silver_table(n)["PartitionKeys"] == [{"Name": "year", "Type": "int"}, {"Name": "month", "Type": "int"}]


def test_the_bronze_table_has_the_columns_of_a_bar_and_the_symbol_of_the_folder() -> None:
    assert bronze_table()["StorageDescriptor"]["Columns"] == columns(BRONZE, without=("symbol",))
    assert bronze_table()["PartitionKeys"] == [{"Name": "symbol", "Type": "string"}]


@pytest.mark.parametrize("n", INTERVALS)
@pytest.mark.parametrize("month", [Month(2013, 2), Month(1999, 12)])
def test_the_folder_of_a_projected_month_is_that_of_the_month_file(n: int, month: Month) -> None:
    projected = folder(silver_table(n), year=str(month.year), month=str(month.month))
    assert projected == silver_key(n, month).rpartition("/")[0] + "/"


def test_the_folder_of_an_injected_symbol_is_the_symbols() -> None:
    assert folder(bronze_table(), symbol="BRK.B") == Bronze().symbol_prefix("BRK.B")
    assert bronze_table()["Parameters"]["projection.symbol.type"] == "injected"


@pytest.mark.parametrize("name", NAMES)
def test_every_partition_is_in_the_tables_own_folder(name: str) -> None:
    table = tables_by_name()[name]
    location = table["StorageDescriptor"]["Location"]
    assert location.endswith("/")
    assert table["Parameters"]["storage.location.template"].startswith(location)
    assert table["Parameters"]["projection.enabled"] == "true"


@pytest.mark.parametrize("n", INTERVALS)
def test_every_month_of_the_calendar_is_projected(n: int) -> None:
    """When this fails, raise the range's end: `make calendar` has added years that no engine would see."""
    parameters = silver_table(n)["Parameters"]
    first, last = (int(year) for year in parameters["projection.year.range"].split(","))
    assert first == nyse().session(0).year
    assert last >= nyse().session(-1).year + 10
    assert parameters["projection.month.range"] == "1,12"
    assert {parameters[f"projection.{name}.type"] for name in ("year", "month")} == {"integer"}


@pytest.mark.parametrize("name", NAMES)
def test_every_table_is_read_as_parquet(name: str) -> None:
    table = tables_by_name()[name]
    storage = table["StorageDescriptor"]
    assert table["Parameters"]["classification"] == "parquet"
    assert "parquet" in storage["InputFormat"]
    assert storage["SerdeInfo"]["SerializationLibrary"].endswith("ParquetHiveSerDe")
    assert table["TableType"] == "EXTERNAL_TABLE"
