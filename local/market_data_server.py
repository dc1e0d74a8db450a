"""The market-data replay of the embedded stack: real bars in the vendor's exact formats.

python -m local.market_data_server --port-file PATH [--port 0] [--api-key KEY] [--bars FOLDER]
                                   [--as-of YYYY-MM-DD] [--since YYYY-MM-DD]

Grouped daily bars, range aggregates of one day, tickers, details, ticker events, splits and dividends. Prices are as
traded, whatever `adjusted` says (it is echoed). Unsupported parameters are refused, except those of bars.

FOLDER (without it: five real stocks, see local.sample_bars) holds, at any depth, files of bars (.csv, .csv.gz,
.parquet) with the columns symbol (or ticker), session (or date, timestamp), open, high, low, close, volume and perhaps
vwap, trades; upper or lower case, text in UTF-8, other columns are ignored. A file without a column for the symbol must
be in a folder symbol=NAME, or have the symbol as its name. Names that begin with a dot or an underscore are ignored.
Optional files beside them:
    tickers.csv         ticker, and perhaps name, type, primary_exchange, currency_name, cik, composite_figi,
                        share_class_figi, list_date, delisted_date (the last day), sic_code, sic_description,
                        is_test (true: one of the vendor's own); "-" is what the vendor leaves out;
                        without this file each symbol with bars is a common stock listed with its first bar
    splits.csv          ticker, execution_date, split_from, split_to, and perhaps adjustment_type;
                        the cumulative factor is computed from the splits that are published
    dividends.csv       ticker, ex_dividend_date, cash_amount (USD a share as traded on that day), and perhaps currency,
                        declaration_date, record_date, pay_date, frequency, distribution_type (recurring);
                        the cumulative factor is computed from the closes before
    ticker_changes.csv  ticker (the one in the request), date, changed_to

For tests and the demo, with the same key (local.market_data.control.Control sends them):
    PUT /replay/as-of   "2013-02-27" or null    later sessions are refused as today's before the end of the day
                                                (grouped, range), companies listed later are unknown
    PUT /replay/since   "2011-03-01" or null    earlier sessions are refused as outside the plan's timeframe
    PUT /replay/hidden  ["FB"]                  symbols that the vendor does not know yet: no bars, ticker or splits
    PUT /replay/splits  ["AAPL-2005-02-28"]     the only splits that are published yet; null: all
    PUT /replay/faults  [{"kind": "429", "path": "/v2/aggs/grouped/*", "times": 2, "retry_after": 1},
                         {"kind": ["drop", "500"], "rate": 0.3, "seed": 7}]
                                                the faults: see local.market_data.faults.Rule
"""

import argparse
import hmac
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import date
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

from local.market_data.faults import Fault, encode_answer, refuse, spoil
from local.market_data.query import Json, RefusedError, unknown_key
from local.market_data.replay import Replay, folder, sample
from local.market_data.shown import Shown
from local.processes import LoopbackServer, Termination, listen


class MarketDataServer(LoopbackServer):
    """Serves one replay on 127.0.0.1 to clients with the key."""

    def __init__(self, port: int, replay: Replay, api_key: str) -> None:
        super().__init__(port, _Handler)
        self.replay = replay
        self.api_key = api_key


class _Handler(BaseHTTPRequestHandler):
    server: MarketDataServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together

    def do_GET(self) -> None:
        self._answer(self._read)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._answer(lambda: self._change(body))

    def _answer(self, answer: Callable[[], None]) -> None:
        try:
            self._check_key()
            answer()
        except RefusedError as refused:
            self._send(refused.code, refused.body, headers=refused.headers)

    def _read(self) -> None:
        url, replay = urlsplit(self.path), self.server.replay
        fault = replay.fault(url.path, url.query)
        if fault is not None:
            refuse(fault)
            if fault.kind == "drop":
                self.close_connection = True
                return
            if fault.kind == "delay":
                time.sleep(fault.rule.seconds)
        base_url = f"http://{self.headers.get('Host', f'127.0.0.1:{self.server.server_port}')}"
        body = replay.answer(url.path, url.query, base_url)
        self._send(HTTPStatus.OK, spoil(body, fault, base_url + self.path), fault)

    def _change(self, body: bytes) -> None:
        self.server.replay.change(urlsplit(self.path).path, body)
        self._send(HTTPStatus.OK, {"status": "OK"})

    def _check_key(self) -> None:
        header = self.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(header, f"Bearer {self.server.api_key}".encode()):
            raise unknown_key()

    def _send(
        self, status: HTTPStatus, body: Json, fault: Fault | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        content = encode_answer({**body, "request_id": uuid.uuid4().hex}, fault)
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault is not None and fault.kind == "cut":
            self.close_connection = True
            content = content[: len(content) // 2]
        self.wfile.write(content)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Replay real daily bars in the market-data vendor's shapes.")
    parser.add_argument("--port-file", type=Path, required=True, help="where to write the port once it answers")
    parser.add_argument("--port", type=int, default=0, help="port of 127.0.0.1 (default: any free one)")
    parser.add_argument("--api-key", default="local-replay", help="key that requests must bear")
    parser.add_argument("--bars", type=Path, help="folder of daily bars (default: the built-in sample)")
    parser.add_argument("--as-of", type=date.fromisoformat, help="last date that is served")
    parser.add_argument("--since", type=date.fromisoformat, help="first date that is served")
    return parser.parse_args()


def main() -> None:
    """Serve until SIGTERM."""
    arguments = _arguments()
    termination = Termination()
    served = folder(arguments.bars) if arguments.bars else sample()
    replay = Replay(Shown(*served, arguments.as_of, arguments.since))
    server = MarketDataServer(arguments.port, replay, arguments.api_key)
    with listen(server, arguments.port_file):
        while not termination.requested:
            time.sleep(0.1)


if __name__ == "__main__":
    main()
