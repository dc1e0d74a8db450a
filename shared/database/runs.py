"""The input and the end of each run: the table runs."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

from shared.database.connection import Connected

_BEGIN: Final = "INSERT INTO runs (run, kind, asked, started_at, status) VALUES ($1, $2, $3, $4, 'running')"
_END: Final = "UPDATE runs SET status = $2, result = $3, ended_at = $4 WHERE run = $1"


class RunTable(Connected):
    """One row for each run; a killed run stays `running`, without an end."""

    async def begin_run(self, kind: str, event: Mapping[str, Any], now: datetime) -> UUID:
        """Record the start of a run; `event` must be valid JSON values."""
        run = uuid4()
        async with self._transaction():
            await self._connection.execute(_BEGIN, run, kind, json.dumps(event), now)
        return run

    async def end_run(self, run: UUID, status: str, result: Mapping[str, Any], now: datetime) -> None:
        """Record how a run ended."""
        async with self._transaction():
            await self._connection.execute(_END, run, status, json.dumps(result), now)
