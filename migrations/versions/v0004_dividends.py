"""Dividends, and the last request for those of each symbol."""

from typing import Final

from alembic import op

revision: Final = "0004"
down_revision: Final = "0003"

# The columns' order is that of fiblake.reference.Dividend.
DIVIDENDS: Final = """
CREATE TABLE dividends (
    symbol text NOT NULL,
    ex_dividend_date date NOT NULL,
    cash_amount double precision NOT NULL,
    currency text,
    declaration_date date,
    record_date date,
    pay_date date,
    frequency bigint,
    distribution_type text,
    split_adjusted_cash_amount double precision,
    historical_adjustment_factor double precision,
    id text NOT NULL,
    PRIMARY KEY (symbol, id)
)
"""
DIVIDENDS_BY_DATE: Final = "CREATE INDEX dividends_ex_dividend_date ON dividends (ex_dividend_date)"
CHECKS: Final = "CREATE TABLE dividend_checks (symbol text PRIMARY KEY, checked_at timestamptz NOT NULL)"


def upgrade() -> None:
    """Create the tables, and an index for recent dividends."""
    for statement in (DIVIDENDS, DIVIDENDS_BY_DATE, CHECKS):
        op.execute(statement)


def downgrade() -> None:
    """Drop the tables with their rows."""
    for table in ("dividend_checks", "dividends"):
        op.execute(f"DROP TABLE {table}")
