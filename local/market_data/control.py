"""How do tests and the demo change what is served while the replay runs? By these calls."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import date

import httpx


@dataclass(frozen=True, slots=True)
class Control:
    """Sends the changes to a running replay; raises httpx.HTTPStatusError if it refuses one."""

    url: str
    key: str = field(repr=False)

    def faults(self, *rules: Mapping[str, object]) -> None:
        """Let requests go wrong from now on as these rules say (`local.market_data.faults.Rule`); none: all is well."""
        self._put("faults", rules)

    def hidden(self, symbols: Collection[str]) -> None:
        """Let the vendor not know these symbols."""
        self._put("hidden", list(symbols))

    def splits(self, published: Collection[str] | None) -> None:
        """Let the vendor know the splits of these ids (AAPL-2005-02-28) and no other; None: all."""
        self._put("splits", None if published is None else list(published))

    def as_of(self, session: date | None) -> None:
        """Let this be the last session that is over; None: all are."""
        self._put("as-of", session and session.isoformat())

    def since(self, session: date | None) -> None:
        """Let the plan's history begin with this session; None: no limit."""
        self._put("since", session and session.isoformat())

    def _put(self, name: str, body: object) -> None:
        headers = {"Authorization": f"Bearer {self.key}"}
        httpx.put(f"{self.url}/replay/{name}", json=body, headers=headers, timeout=30).raise_for_status()
