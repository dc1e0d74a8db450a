"""The market-data replay in this process, for clients over HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from local.market_data.control import Control
from local.market_data.replay import Replay, folder, sample
from local.market_data.shown import Shown
from local.market_data_server import MarketDataServer
from local.processes import listen

KEY = "r3play-K3Y"


@dataclass(frozen=True)
class Market:
    """A running replay, and its clients."""

    url: str
    control: Control
    http: httpx.Client

    def get(self, path: str, **parameters: str | int) -> dict[str, Any]:
        answer = self.http.get(path, params=parameters or None)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def pages(self, path: str, **parameters: str | int) -> Iterator[list[dict[str, Any]]]:
        body = self.get(path, **parameters)
        yield body["results"]
        while "next_url" in body:
            url = urlsplit(body["next_url"])
            body = self.get(f"{url.path}?{url.query}")
            yield body["results"]

    def reset(self) -> None:
        """Show all data, and cause no faults."""
        self.control.faults()
        self.control.hide([])
        self.control.splits(None)
        self.control.as_of(None)
        self.control.since(None)


@contextmanager
def replaying(port_file: Path, bars: Path | None = None) -> Iterator[Market]:
    """Replay the built-in sample, or the files in the folder `bars`."""
    server = MarketDataServer(0, Replay(Shown(*(folder(bars) if bars else sample()))), KEY)
    with listen(server, port_file):
        url = f"http://127.0.0.1:{server.server_port}"
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=url, headers=headers, timeout=30) as http:
            yield Market(url, Control(url, KEY), http)
