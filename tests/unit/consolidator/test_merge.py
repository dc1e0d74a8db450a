import random
from datetime import date, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.bars import BRONZE
from services.consolidator.merge import Merged, merge
from tests.fakes import bar, later, table

SESSIONS = [date(2025, 11, 3) + timedelta(days=n) for n in range(6)]
ORDER = ("timestamp", "ingested_at", "close", "open", "high", "low", "volume", "vwap", "trades")

# Few instants and few prices, so that equal instants with different prices are common.
bars = st.builds(
    lambda session, close, minute, volume, vwap, trades: bar(
        session, close, later(minute), volume=volume, vwap=vwap, trades=trades
    ),
    st.sampled_from(SESSIONS),
    st.sampled_from([1.0, 2.0, 3.0]),
    st.integers(0, 2),
    st.sampled_from([10.0, 20.5]),
    st.sampled_from([None, 1.5, 2.5]),
    st.sampled_from([None, 7, 8]),
)
arrivals = st.lists(bars, min_size=1, max_size=25)
withdrawals = st.dictionaries(st.sampled_from(SESSIONS), st.integers(0, 2).map(later), max_size=4)


def winners(rows: list[dict]) -> list[dict]:
    """Return the last write of each session by the rule, in plain Python, without our code."""

    def rank(row: dict) -> tuple:
        return tuple((row[name] is not None, row[name] or 0) for name in ORDER if name != "timestamp")

    last: dict[date, dict] = {}
    for row in rows:
        winner = last.get(row["timestamp"])
        if winner is None or rank(row) > rank(winner):
            last[row["timestamp"]] = row
    return [last[session] for session in sorted(last)]


def without(rows: list[dict], withdrawn: dict[date, datetime]) -> list[dict]:
    """Return the rows that are not withdrawn."""
    return [
        row for row in rows if row["timestamp"] not in withdrawn or row["ingested_at"] > withdrawn[row["timestamp"]]
    ]


def in_batches(rows: list[dict], shuffle: random.Random) -> list[pa.Table]:
    """Split rows into tables at random places; some tables may be empty."""
    cuts = sorted(shuffle.choices(range(len(rows) + 1), k=3))
    return [table(*rows[a:b]) for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]


@given(arrivals, st.randoms(use_true_random=False))
def test_any_order_duplication_split_and_mixture_with_the_base_gives_the_identical_table(
    rows: list[dict], shuffle: random.Random
) -> None:
    repeated = rows + shuffle.choices(rows, k=len(rows))
    shuffle.shuffle(repeated)
    base = merge(None, [table(*shuffle.sample(rows, k=shuffle.randrange(len(rows) + 1)))]).bars
    for batch in in_batches(repeated, shuffle):
        base = merge(base, [batch]).bars
    at_once = merge(base if shuffle.random() < 0.5 else None, in_batches(repeated, shuffle)).bars
    assert base.equals(table(*winners(rows)))
    assert at_once.equals(table(*winners(rows)))


@given(arrivals, withdrawals, st.randoms(use_true_random=False))
def test_withdrawals_in_any_order_among_the_arrivals_and_repeated_give_the_identical_table(
    rows: list[dict], withdrawn: dict[date, datetime], shuffle: random.Random
) -> None:
    repeated = rows + shuffle.choices(rows, k=len(rows))
    shuffle.shuffle(repeated)
    steps: list[pa.Table | tuple[date, datetime]] = [*in_batches(repeated, shuffle), *withdrawn.items()] * 2
    shuffle.shuffle(steps)
    state = Merged(BRONZE.empty_table(), None)
    for step in steps:
        if isinstance(step, tuple):
            session, until = step
            latest = max(until, state.withdrawn.get(session, until))
            state = merge(state.bars, [], {**state.withdrawn, session: latest})
        else:
            state = merge(state.bars, [step], state.withdrawn)
    expected = without(winners(rows), withdrawn)
    sessions = {row["timestamp"] for row in expected}
    assert state.bars.equals(table(*expected))
    assert state.withdrawn == {day: until for day, until in withdrawn.items() if day not in sessions}


@given(st.lists(bars, max_size=15), arrivals, withdrawals)
def test_changed_from_is_the_earliest_session_whose_row_differs_or_is_withdrawn(
    before: list[dict], new: list[dict], withdrawn: dict[date, datetime]
) -> None:
    base = merge(None, [table(*before)]).bars
    merged = merge(base, [table(*new)], withdrawn)
    was = {row["timestamp"]: row for row in base.to_pylist()}
    now = {row["timestamp"]: row for row in merged.bars.to_pylist()}
    assert merged.changed_from == min((day for day in {*was, *now} if was.get(day) != now.get(day)), default=None)


@given(st.lists(bars, max_size=15), st.lists(bars, max_size=2), withdrawals)
def test_a_merge_that_says_so_keeps_all_rows_of_the_base_as_the_first_ones(
    before: list[dict], new: list[dict], withdrawn: dict[date, datetime]
) -> None:
    base = merge(None, [table(*before)]).bars
    merged = merge(base, [table(*new)], withdrawn)
    assert not merged.extends_base or merged.bars.slice(0, base.num_rows).equals(base)
    assert not merge(None, [table(*new)], withdrawn).extends_base


def test_a_merge_of_one_later_session_says_that_it_extends_the_base() -> None:
    days = [bar(f"2025-11-{day}", 7.0) for day in (18, 19)]
    assert merge(table(days[0]), [table(days[1])]).extends_base
    assert not merge(None, [table(days[1])]).extends_base


@given(st.lists(bars, max_size=15), arrivals)
def test_changed_from_is_the_earliest_session_whose_row_differs(before: list[dict], new: list[dict]) -> None:
    base = merge(None, [table(*before)]).bars
    merged = merge(base, [table(*new)])
    was = {row["timestamp"]: row for row in base.to_pylist()}
    differing = [row["timestamp"] for row in merged.bars.to_pylist() if was.get(row["timestamp"]) != row]
    assert merged.changed_from == min(differing, default=None)


@given(arrivals)
def test_merging_the_same_bars_again_changes_nothing(rows: list[dict]) -> None:
    once = merge(None, [table(*rows)])
    again = merge(once.bars, [table(*rows), once.bars])
    assert again.changed_from is None
    assert again.bars.equals(once.bars)


@given(st.lists(bars, max_size=15), arrivals)
def test_bars_keep_their_schema_and_stand_in_order_one_a_session(before: list[dict], new: list[dict]) -> None:
    merged = merge(merge(None, [table(*before)]).bars, [table(*new)]).bars
    sessions = merged["timestamp"].to_pylist()
    assert merged.schema.equals(BRONZE)
    assert sessions == sorted(set(sessions))


@pytest.mark.parametrize("stale_first", [True, False])
def test_last_write_wins_whatever_arrives_last(stale_first: bool) -> None:  # noqa: FBT001
    stale, fresh = bar("2025-11-03", 10, later(0)), bar("2025-11-03", 9, later(5))
    order = [stale, fresh] if stale_first else [fresh, stale]
    base = merge(None, [table(order[0])]).bars
    assert merge(base, [table(order[1])]).bars["close"].to_pylist() == [9]


def test_of_equal_instants_the_greater_close_wins_and_a_value_beats_null() -> None:
    low, high = bar("2025-11-03", 10, vwap=99.0), bar("2025-11-03", 11)
    assert merge(None, [table(high, low)]).bars["close"].to_pylist() == [11]
    null, value = bar("2025-11-04", 10), bar("2025-11-04", 10, vwap=10.1)
    assert merge(None, [table(value, null)]).bars["vwap"].to_pylist() == [10.1]


@pytest.mark.parametrize("field", [field for field in BRONZE if field.name not in {"symbol", "interval"}], ids=str)
def test_of_rows_that_differ_in_one_column_only_the_same_wins_in_either_order(field: pa.Field) -> None:
    """Each column of the schema that varies takes part in the order, also one that is added to the schema later."""
    row = bar("2025-11-03", 10, vwap=10.0, trades=7)
    assert set(row) == set(BRONZE.names), "a new column needs two values here"
    step = timedelta(days=1) if field.name in {"timestamp", "ingested_at"} else 1
    other = row | {field.name: step if row[field.name] is None else row[field.name] + step}  # type: ignore[operator]
    first, second = (merge(None, [table(*rows)]).bars for rows in ((row, other), (other, row)))
    assert first.equals(second)
    assert first.to_pylist()[-1] == other


def test_an_arrival_that_loses_changes_nothing() -> None:
    base = merge(None, [table(bar("2025-11-03", 10, later(5)), bar("2025-11-04", 10, later(5)))]).bars
    merged = merge(base, [table(bar("2025-11-03", 99, later(0)))])
    assert merged == Merged(merged.bars, None)
    assert merged.bars.equals(base)


def test_without_arrivals_the_base_stays() -> None:
    base = merge(None, [table(bar("2025-11-03"))]).bars
    assert merge(base, []) == Merged(base, None)
    assert merge(base, [BRONZE.empty_table()]).bars.equals(base)
    assert merge(None, []).bars.num_rows == 0
