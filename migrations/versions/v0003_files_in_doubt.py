"""Which files a fetcher is putting: a run that dies leaves their keys, and the next one looks what stands there."""

from typing import Final

from alembic import op

revision: Final = "0003"
down_revision: Final = "0002"

DOUBTS: Final = """
CREATE TABLE files_in_doubt (
    scope text NOT NULL,
    key text NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, key)
)
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(DOUBTS)


def downgrade() -> None:
    """Drop the table; what a dead run put is then compared as if it had been stored."""
    op.execute("DROP TABLE files_in_doubt")
