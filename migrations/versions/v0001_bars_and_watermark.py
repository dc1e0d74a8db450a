"""Daily bars, and the watermark of each dataset."""

from typing import Final

from alembic import op

revision: Final = "0001"
down_revision: Final = None

# The columns of fiblake.bars.BRONZE.
BARS: Final = """
CREATE TABLE raw_ohlcv (
    symbol text NOT NULL,
    "timestamp" date NOT NULL,
    open double precision NOT NULL,
    high double precision NOT NULL,
    low double precision NOT NULL,
    close double precision NOT NULL,
    volume double precision NOT NULL,
    vwap double precision,
    trades bigint,
    "interval" text NOT NULL,
    ingested_at timestamptz NOT NULL,
    PRIMARY KEY (symbol, "timestamp", "interval")
)
"""
WATERMARK: Final = """
CREATE TABLE data_ingestion_watermark (
    dataset text PRIMARY KEY,
    last_session date NOT NULL,
    updated_at timestamptz NOT NULL
)
"""


def upgrade() -> None:
    """Create both tables."""
    op.execute(BARS)
    op.execute(WATERMARK)


def downgrade() -> None:
    """Drop both tables, with their rows."""
    op.execute("DROP TABLE data_ingestion_watermark")
    op.execute("DROP TABLE raw_ohlcv")
