"""The files that a fetcher is putting: a run that dies leaves their keys, and the next run reads these files."""

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
    """Drop the table; files of a dead run are then compared as if their rows were stored."""
    op.execute("DROP TABLE files_in_doubt")
