"""An argument of a wrong type leads to one sentence with a right example, in every method of the reader."""

import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fiblake
from fiblake import Lake
from fiblake.errors import ConfigurationError, ContractError, FiblakeError
from tests.fakes import LAKE, MemoryObjectStore, bar, consolidated

ODD: list[Any] = [
    1, 1.5, float("nan"), b"x", object(), [1], {}, ["a"], ("AAPL", 3), {"AAPL": 1}, range(3), date(2025, 1, 2),
    np.datetime64("NaT"), pd.Timestamp("2025-01-02"), pd.Series(["AAPL"]), pd.NaT, "", len, True, None,
]  # fmt: skip
NEEDED: dict[str, dict[str, Any]] = {
    "bars": {}, "panel": {"column": "close"}, "sql": {"query": "SELECT 1 AS x"}, "splits": {"symbol": "AAPL"},
    "dividends": {"symbol": "AAPL"}, "universe": {"day": "2025-11-19"}, "sessions": {}, "symbols": {},
}  # fmt: skip
"""The required arguments of each method."""


def arguments_of(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


FIELDS = {field.name for field in fields(Lake)}
METHODS = sorted({name for name, _ in inspect.getmembers(Lake, inspect.isfunction) if name[0] != "_"} - FIELDS)


def test_the_table_has_every_method() -> None:
    assert set(METHODS) == NEEDED.keys()


@pytest.mark.parametrize(
    ("method", "name"), [(method, name) for method in METHODS for name in arguments_of(getattr(Lake, method))]
)
def test_a_method_takes_it_or_says_what_to_write(method: str, name: str) -> None:
    store = MemoryObjectStore()
    store.lay(LAKE.data_key("AAPL"), consolidated(bar("2025-11-19")))
    for value in ODD:
        with suppress(FiblakeError):
            getattr(Lake(store), method)(**{**NEEDED[method], name: value})


@pytest.mark.parametrize("name", arguments_of(fiblake.open))
def test_open_takes_it_or_says_what_to_write(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fiblake.reader.opening._bucket_of", lambda *_: "lake")
    monkeypatch.setattr("fiblake.stacks.check_profile", lambda _: None)
    needed = {} if name in {"stack", "bucket", "local"} else {"bucket": "lake"}
    for value in ODD:
        with suppress(FiblakeError):
            fiblake.open(**{**needed, name: value})


def test_the_sentence_names_argument_type_and_remedy() -> None:
    lake = Lake(MemoryObjectStore())
    with pytest.raises(ContractError, match=r"^symbols is of type int: write 'AAPL' or \['AAPL', 'MSFT'\]$"):
        lake.bars(3)  # type: ignore[arg-type]
    with pytest.raises(ContractError, match=r"^a name in symbols is of type int: write 'AAPL'$"):
        lake.bars(["AAPL", 3])  # type: ignore[list-item]
    with pytest.raises(ContractError, match="complete is of type str: write True or False"):
        lake.bars("AAPL", complete="no")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="bucket is of type bytes: write bucket="):
        fiblake.open(bucket=b"lake")  # type: ignore[arg-type]
