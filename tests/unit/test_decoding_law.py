"""Foreign Parquet, CSV and JSON is read only with fiblake/decoding.py.

That module checks sizes before it reads, and converts every error of a library into an error of ours.
"""

import ast
from collections.abc import Iterator

from tests.fakes import REPOSITORY

DECODERS = {
    "ParquetDataset", "ParquetFile", "read_csv", "read_json", "read_metadata", "read_pandas", "read_parquet",
    "read_table", "open_csv", "load", "loads", "model_validate_json", "DictReader", "decompress", "reader",
}  # fmt: skip
"""Names of functions of json, pyarrow, csv, gzip, pydantic and DuckDB that decode."""
MODULES = {"csv", "gzip", "json", "pa_csv", "pq", "pyarrow", "zlib"}
ELSEWHERE = {
    "cli/events.py": "what a person typed",
    "fiblake/reader/views.py": "DuckDB reads copies, which fiblake/decoding.py has read before they are kept",
    "services/consolidator/arrivals.py": "SQS keeps a message to 1 MB",
    "services/fetcher/credentials.py": "a secret, of which no error may show anything",
    "services/fetcher/flat_files/days.py": "has limits of its own, line by line, because a day file is large",
    "services/fetcher/flat_files/keys.py": "a secret, of which no error may show anything",
    "services/fetcher/wire.py": "the vendor's answers, of which services/fetcher/massive.py bounds the size",
    "shared/database/connection.py": "a secret, of which no error may show anything",
    "shared/dead_letters.py": "SQS keeps a message to 1 MB",
    "fiblake/decoding.py": "the place itself",
    "shared/events.py": "SQS and SNS keep a message to 1 MB",
    "shared/logs.py": "CloudWatch Logs keeps a line to 1 MB",
    "shared/outcomes.py": "SQS keeps a message to 1 MB",
}


def decoding_calls() -> Iterator[tuple[str, int]]:
    for folder in ("cli", "fiblake", "services", "shared"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_decoder(node.func):
                    yield path.relative_to(REPOSITORY).as_posix(), node.lineno


def is_decoder(call: ast.Attribute) -> bool:
    owner = call.value.id if isinstance(call.value, ast.Name) else ""
    return call.attr in DECODERS and (owner in MODULES or call.attr in {"model_validate_json", "read_parquet"})


def test_only_one_place_decodes_what_others_wrote() -> None:
    places = list(decoding_calls())
    assert [f"{path}:{line}" for path, line in places if path not in ELSEWHERE] == []
    assert {path for path, _ in places} >= {"fiblake/decoding.py", "services/consolidator/arrivals.py"}


def test_no_exception_outlives_its_reason() -> None:
    assert set(ELSEWHERE) - {path for path, _ in decoding_calls()} == set()


def test_the_bytes_of_an_object_are_read_where_its_errors_are_caught() -> None:
    """An object that is too large raises when its bytes are read: as an argument, before `catch_errors` begins."""
    calls = [
        (path.relative_to(REPOSITORY).as_posix(), node)
        for folder in ("cli", "services", "shared")
        for path in sorted((REPOSITORY / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "catch_errors"
    ]
    assert len(calls) > 20
    early = [f"{path}:{call.lineno}" for path, call in calls for a in call.args if is_bytes_of_object(a)]
    assert early == []


def is_bytes_of_object(argument: ast.expr) -> bool:
    return isinstance(argument, ast.Attribute) and argument.attr == "data"
