import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from fiblake.wording import instant, pluralize, shorten_ids
from tests.fakes import REPOSITORY


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 symbols"), (1, "1 symbol"), (2, "2 symbols"), (2_516, "2,516 symbols")]
)
def test_a_count_has_its_noun(count: int, text: str) -> None:
    assert pluralize(count, "symbol") == text


def test_a_plural_of_its_own() -> None:
    assert pluralize(3, "company", "companies") == "3 companies"


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 11, 26, 17, 5, 3, 999, tzinfo=UTC),
        datetime(2026, 11, 26, 17, 5, 3),  # noqa: DTZ001 (what some readers return)
        datetime(2026, 11, 26, 12, 5, 3, tzinfo=timezone(-timedelta(hours=5))),
        "2026-11-26T17:05:03+00:00",
        "2026-11-26 17:05:03.12Z",
    ],
)
def test_an_instant_is_written_in_utc(moment: datetime | str) -> None:
    assert instant(moment) == "2026-11-26 17:05:03Z"


def test_a_text_that_is_no_instant_stays() -> None:
    assert instant("soon") == "soon"
    assert instant("0001-01-01T00:00:00+14:00") == "0001-01-01T00:00:00+14:00"  # in UTC it is before the year 1


@pytest.mark.parametrize("identifier", ["1b4e28ba-2fa1-11d2-883f-0016d3cca427", "1b4e28ba2fa111d2883f0016d3cca427"])
def test_an_id_is_cut(identifier: str) -> None:
    assert shorten_ids(f"drain-{identifier}-1") == "drain-1b4e28ba…-1"
    assert shorten_ids("symbol=AAPL/date=2026-11-26.parquet") == "symbol=AAPL/date=2026-11-26.parquet"


WORDS = "bars|bytes|companies|days|files|jobs|letters|messages|minutes|requests|rows|sessions|symbols|times"
BY_HAND = re.compile(rf"(no )?\{{([^{{}}]+)\}}+ (?:(?:more|merged|dead) )?(?:{WORDS})\b")
"""A value followed by a plural: for one thing it would be wrong."""
PRINTING = ["cli", "local", "services/vacuum", "services/reconcile"]
LIMITS = {"size:,", "_MAX_DESCRIBED", "RETENTION_FLOOR_DAYS", "days"}
"""Limits are of many."""


def test_no_text_for_a_person_makes_its_own_plural() -> None:
    sources = [file for room in PRINTING for file in (REPOSITORY / room).rglob("*") if file.suffix in {".py", ".html"}]
    by_hand = {
        f"{file.relative_to(REPOSITORY)}: {match[0]}"
        for file in sources
        for match in BY_HAND.finditer(file.read_text(encoding="utf-8"))
        if not match[1] and "counted(" not in match[2] and match[2] not in LIMITS
    }
    assert len(sources) > 50
    assert by_hand == set()
