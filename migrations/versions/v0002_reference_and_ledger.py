"""The companies of each symbol, splits, the ledger of sessions, and the runs of the fetchers."""

from typing import Final

from alembic import op

revision: Final = "0002"
down_revision: Final = "0001"

# The columns' order is that of fiblake.symbols.SymbolRecord: rows are staged in a table LIKE this one.
SYMBOLS: Final = """
CREATE TABLE symbol_metadata (
    symbol text NOT NULL,
    valid_from date NOT NULL,
    valid_to date,
    composite_figi text,
    share_class_figi text,
    name text,
    industry text,
    sector text,
    sic_code text,
    exchange text,
    type text,
    currency text,
    list_date date,
    delisted_date date,
    active boolean NOT NULL,
    first_seen timestamptz NOT NULL,
    last_seen timestamptz NOT NULL,
    details_at timestamptz,
    history_requested_at timestamptz,
    history_loaded_at timestamptz,
    history_from date,
    PRIMARY KEY (symbol, valid_from),
    CHECK (valid_to >= valid_from)
)
"""
ONE_CURRENT: Final = "CREATE UNIQUE INDEX symbol_metadata_current ON symbol_metadata (symbol) WHERE valid_to IS NULL"
# The columns' order is that of fiblake.reference.Split.
SPLITS: Final = """
CREATE TABLE splits (
    symbol text NOT NULL,
    execution_date date NOT NULL,
    split_from double precision NOT NULL,
    split_to double precision NOT NULL,
    adjustment_type text NOT NULL,
    historical_adjustment_factor double precision NOT NULL,
    id text NOT NULL,
    PRIMARY KEY (symbol, id)
)
"""
SPLITS_BY_DATE: Final = "CREATE INDEX splits_execution_date ON splits (execution_date)"
LEDGER: Final = """
CREATE TABLE ingested_sessions (
    session date PRIMARY KEY,
    bars integer NOT NULL,
    quarantined integer NOT NULL,
    outside_universe integer NOT NULL,
    flagged integer NOT NULL,
    stored_at timestamptz NOT NULL,
    archived_at timestamptz
)
"""
# For sessions from before the ledger, only the watermark is reliable.
FIRST_ENTRY: Final = """
INSERT INTO ingested_sessions (session, bars, quarantined, outside_universe, flagged, stored_at)
SELECT last_session, (SELECT count(*) FROM raw_ohlcv WHERE "timestamp" = last_session), 0, 0, 0, updated_at
FROM data_ingestion_watermark
WHERE dataset = 'ohlcv_1d'
"""
RUNS: Final = """
CREATE TABLE runs (
    run uuid PRIMARY KEY,
    kind text NOT NULL,
    asked jsonb NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    status text NOT NULL,
    result jsonb
)
"""
RUNS_BY_START: Final = "CREATE INDEX runs_started_at ON runs (started_at)"
BARS_BY_SESSION: Final = 'CREATE INDEX raw_ohlcv_timestamp ON raw_ohlcv ("timestamp")'


def upgrade() -> None:
    """Create the tables, and an index for reading bars by session."""
    for statement in (
        SYMBOLS, ONE_CURRENT, SPLITS, SPLITS_BY_DATE, BARS_BY_SESSION, LEDGER, FIRST_ENTRY, RUNS, RUNS_BY_START,
    ):  # fmt: skip
        op.execute(statement)


def downgrade() -> None:
    """Drop the tables with their rows, and the index."""
    op.execute("DROP INDEX raw_ohlcv_timestamp")
    for table in ("runs", "ingested_sessions", "splits", "symbol_metadata"):
        op.execute(f"DROP TABLE {table}")
