"""Change what a running replay serves, for tests and the demo."""

import json
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from http import HTTPStatus
from http.client import HTTPConnection
from urllib.parse import urlsplit

from fiblake.errors import ContractError


@dataclass(frozen=True, slots=True)
class Control:
    """Sends the changes to a running replay; raises ContractError if it refuses one."""

    url: str
    key: str = field(repr=False)

    def faults(self, *rules: Mapping[str, object]) -> None:
        """Make requests fail from now on by these rules (`local.market_data.faults.Rule`); without rules none fails."""
        self._put("faults", rules)

    def hide(self, symbols: Collection[str]) -> None:
        """Hide these symbols."""
        self._put("hidden", list(symbols))

    def splits(self, published: Collection[str] | None) -> None:
        """Publish the splits of these ids (AAPL-2005-02-28) and no others; None: all."""
        self._put("splits", None if published is None else list(published))

    def as_of(self, session: date | None) -> None:
        """Make this the last session that is over; None: all are."""
        self._put("as-of", session and session.isoformat())

    def since(self, session: date | None) -> None:
        """Make the plan's history begin with this session; None: no limit."""
        self._put("since", session and session.isoformat())

    def _put(self, name: str, body: object) -> None:
        headers = {"Authorization": f"Bearer {self.key}"}
        with closing(HTTPConnection(urlsplit(self.url).netloc, timeout=30)) as connection:
            connection.request("PUT", f"/replay/{name}", json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        if answer.status != HTTPStatus.OK:
            raise ContractError(f"the replay does not take this as {name}: status {answer.status}, {text}")
