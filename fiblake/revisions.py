"""The superseded statements of a symbol's data.parquet, and the lake as it was known at an instant (pure).

A version of data.parquet has three kinds of statements: the bar of a session, the withdrawal of a session's bar, and
the reference. Each statement carries the first version that had it (`known_at`). Before a version without a statement
is written, the statement is added to the symbol's file of revisions. So the bar of a session at instant T is that of
the latest statement up to T, in data.parquet and the revisions together.

Only statements of a stored data.parquet become revisions, and no revision is ever removed. If a writer dies after it
wrote revisions, they are still true, whether its data.parquet was stored or not.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fiblake.adjustment import NO_REFERENCE, Reference
from fiblake.bars import BRONZE, KNOWN_AT, OLDEST_VERSION, VALUE_COLUMNS, Consolidated, Known, decode, encode
from fiblake.decoding import decoding

BAR, WITHDRAWAL, REFERENCE = "bar", "withdrawal", "reference"
_BAR_COLUMNS: Final = ("timestamp", *VALUE_COLUMNS, "ingested_at")
REVISIONS: Final = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        KNOWN_AT.with_nullable(False),  # noqa: FBT003 (pyarrow's own)
        *(BRONZE.field(name).with_nullable(True) for name in _BAR_COLUMNS),  # noqa: FBT003
        pa.field("reference", pa.string()),
    ]
)
"""A statement that data.parquet had from version `known_at` on, and no longer has.

`kind`: "bar" (the columns of BRONZE), "withdrawal" (of session `timestamp`) or "reference" (the text of `reference`).
"""
NO_REVISIONS: Final = pa.Table.from_batches([], schema=REVISIONS)  # `empty_table` is slow, and imports pandas
_REMEDY: Final = "restore its last version that can be read (the bucket keeps versions)"
_ORDER: Final = [(name, "ascending") for name in ("known_at", "kind", "timestamp", "ingested_at")]


def revise(
    before: Consolidated | None, after: Consolidated, *, restored: bool = False, extends: bool = False
) -> tuple[Consolidated, pa.Table]:
    """Return `after` with the first version of each of its statements, and the statements that only `before` has.

    The latter are the statements (schema REVISIONS) of `before` that `after`, its next version, no longer has. There
    are none if another program wrote `before`: its bars were never checked.

    `restored`: `before` is an older version that was put back. Later versions had other statements in between, so all
    statements of `after` count as new. `extends`: the caller knows that the bars of `before` are the first of `after`.
    """
    version = pa.scalar(after.last_updated, KNOWN_AT.type)
    if before is None:
        bars = pa.chunked_array([pa.repeat(version, after.bars.num_rows)])
        statements = Known(bars, after.last_updated, dict.fromkeys(after.withdrawn, after.last_updated))
        return replace(after, known=statements), NO_REVISIONS
    since, count = known_of(before), before.bars.num_rows
    if restored:
        rows = [{"kind": WITHDRAWAL, "known_at": at, "timestamp": s} for s, at in sorted(since.withdrawn.items())]
        rows.append({"kind": REFERENCE, "known_at": since.reference, "reference": before.reference.to_json()})
        stated = _as_revisions(before.bars.append_column(KNOWN_AT, since.bars))
        revisions = pa.concat_tables([stated, pa.Table.from_pylist(rows, schema=REVISIONS)])
        return revise(None, after)[0], NO_REVISIONS if before.adopted else revisions
    withdrawn = {session: since.withdrawn.get(session, after.last_updated) for session in after.withdrawn}
    reference = since.reference if after.reference == before.reference else after.last_updated
    ended_statements: list[pa.Table] = []
    if extends or (after.bars.num_rows >= count and after.bars.slice(0, count).equals(before.bars)):
        # One added bar: the common case, with a cheap solution.
        added = pa.repeat(version, after.bars.num_rows - count)
        bars = pa.chunked_array([*since.bars.chunks, added])
    else:
        places = _kept_places(before.bars, after.bars)
        is_gone = np.ones(count, np.bool_)
        is_gone[places[places >= 0]] = False
        gone = before.bars.append_column(KNOWN_AT, since.bars).filter(pa.array(is_gone))
        ended_statements.append(_as_revisions(gone))
        bars = pc.fill_null(since.bars.take(pa.array(places, mask=places < 0)), version)
    ended = {s: since.withdrawn[s] for s in before.withdrawn.keys() - after.withdrawn.keys() & since.withdrawn.keys()}
    rows = [{"kind": WITHDRAWAL, "known_at": at, "timestamp": session} for session, at in sorted(ended.items())]
    if reference == after.last_updated:
        rows.append({"kind": REFERENCE, "known_at": since.reference, "reference": before.reference.to_json()})
    if rows:
        ended_statements.append(pa.Table.from_pylist(rows, schema=REVISIONS))
    no_revisions = before.adopted or not ended_statements
    revisions = NO_REVISIONS if no_revisions else pa.concat_tables([NO_REVISIONS, *ended_statements])
    return replace(after, known=Known(bars, reference, withdrawn)), revisions


def add_revisions(rows: pa.Table, symbol: str) -> Callable[[bytes | None], bytes | None]:
    """Return the change of a file of revisions that adds rows; equal rows are stored once, and no row is removed."""
    what = f"the file of revisions of {symbol}"

    def change(data: bytes | None) -> bytes | None:
        stored = read_revisions(data, symbol)
        union = pa.concat_tables([stored, rows]).group_by(REVISIONS.names, use_threads=False).aggregate([])
        union = union.select(REVISIONS.names)
        return None if union.num_rows == stored.num_rows else encode(union.sort_by(_ORDER).cast(REVISIONS), what=what)

    return change


def read_revisions(data: bytes | None, symbol: str) -> pa.Table:
    """Read a file of revisions (None: there is none); raise ContractError if it cannot be read."""
    if data is None:
        return NO_REVISIONS
    with decoding(f"the revisions of {symbol} cannot be read", _REMEDY):
        return decode(data, REVISIONS, "the file", "").replace_schema_metadata(None)


def known_of(stored: Consolidated) -> Known:
    """Return the instants since which the statements of a data.parquet are known; older files do not have them.

    For an older file a bar counts as known since it was ingested, and a withdrawal and the reference since the
    beginning. If another program wrote the file, everything counts as known since the file was put.
    """
    if stored.known is not None:
        return stored.known
    if stored.adopted:
        version = pa.scalar(stored.last_updated, KNOWN_AT.type)
        return Known(pa.chunked_array([pa.repeat(version, stored.bars.num_rows)]), stored.last_updated)
    return Known(stored.bars["ingested_at"], OLDEST_VERSION, dict.fromkeys(stored.withdrawn, OLDEST_VERSION))


def known_at(stored: Consolidated, revisions: pa.Table, instant: datetime) -> tuple[pa.Table, Reference]:
    """Return bars (schema BRONZE without constants, sorted) and reference as they were known at an instant.

    The result is empty if there were no bars at that instant.
    """
    since = known_of(stored)
    current = _as_revisions(stored.bars.append_column(KNOWN_AT, since.bars))
    withdrawn = [
        {"kind": WITHDRAWAL, "known_at": version, "timestamp": session} for session, version in since.withdrawn.items()
    ]
    rows = pa.concat_tables([revisions, current, pa.Table.from_pylist(withdrawn, schema=REVISIONS)])
    rows = rows.filter(pc.less_equal(rows["known_at"], pa.scalar(instant, KNOWN_AT.type)))
    references = rows.filter(pc.equal(rows["kind"], REFERENCE)).sort_by("known_at")
    bars = rows.filter(pc.not_equal(rows["kind"], REFERENCE))
    # Of equal instants the withdrawal sorts last, by its kind, and wins.
    bars = bars.sort_by([("timestamp", "ascending"), ("known_at", "ascending"), ("kind", "ascending")])
    sessions = bars["timestamp"].cast(pa.int32()).to_numpy()
    is_last = np.append(sessions[1:] != sessions[:-1], np.ones(min(sessions.size, 1), np.bool_))
    bars = bars.filter(pa.array(is_last))
    bars = bars.filter(pc.equal(bars["kind"], BAR)).select(list(_BAR_COLUMNS)).combine_chunks()
    if since.reference <= instant:
        return bars, stored.reference
    if not references.num_rows:
        return bars, NO_REFERENCE
    with decoding("a reference in the revisions cannot be read", _REMEDY):
        return bars, Reference.from_json(references["reference"][-1].as_py() or "")


def _kept_places(old: pa.Table, new: pa.Table) -> npt.NDArray[np.int64]:
    """Return, for each bar of `new`, its place in `old` if `old` has it with the same values, otherwise -1."""
    count = old.num_rows
    days, sessions = (table["timestamp"].cast(pa.int32()).to_numpy() for table in (old, new))
    places = np.searchsorted(days, sessions)
    places[places == count] = 0
    same = days[places] == sessions if count else np.zeros(sessions.size, np.bool_)
    matched = old.take(pa.array(places)) if count else new
    for name in VALUE_COLUMNS:
        equal = pc.fill_null(pc.equal(matched[name], new[name]), fill_value=False)
        both_null = pc.and_(pc.is_null(matched[name]), pc.is_null(new[name]))
        same &= pc.or_(equal, both_null).to_numpy()
    return np.where(same, places, -1)


def _as_revisions(bars: pa.Table) -> pa.Table:
    """Return bars with `known_at` as rows of REVISIONS."""
    columns: dict[str, Any] = {name: bars[name] for name in (*_BAR_COLUMNS, "known_at")}
    columns["kind"] = pa.repeat(pa.scalar(BAR), bars.num_rows)
    columns["reference"] = pa.nulls(bars.num_rows, pa.string())
    return pa.Table.from_arrays([columns[name] for name in REVISIONS.names], schema=REVISIONS)
