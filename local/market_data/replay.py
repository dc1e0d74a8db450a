"""The replay: the function of each path, and the changes while it runs."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from pydantic import TypeAdapter, ValidationError

from local.market_data import aggregates, listings
from local.market_data.bars import Bars, files_of
from local.market_data.faults import Fault, Rule, Script
from local.market_data.query import Json, bad_request, not_found
from local.market_data.reference import FILES, Reference
from local.market_data.shown import Shown
from local.sample_bars import sample_file

Answering = Callable[[Shown, Mapping[str, str], str, str], Json]
"""Takes the shown data, the parts of the path, the query, and the server's own address."""

SAMPLE: Final = Path(__file__).parent / "sample"
_ANSWERS: Final[dict[re.Pattern[str], Answering]] = {
    re.compile(r"/v2/aggs/grouped/locale/us/market/stocks/(?P<session>[^/]+)"): aggregates.grouped,
    re.compile(
        r"/v2/aggs/ticker/(?P<ticker>[^/]+)/range/(?P<multiplier>[^/]+)/(?P<timespan>[^/]+)/(?P<first>[^/]+)/(?P<last>[^/]+)"
    ): aggregates.one_range,
    re.compile(r"/v3/reference/tickers"): listings.tickers,
    re.compile(r"/v3/reference/tickers/(?P<ticker>[^/]+)"): listings.details,
    re.compile(r"/vX/reference/tickers/(?P<ticker>[^/]+)/events"): listings.events,
    re.compile(r"/stocks/v1/splits"): listings.splits,
    re.compile(r"/stocks/v1/dividends"): listings.dividends,
}
_SYMBOLS: Final = TypeAdapter(frozenset[str])
_DAY: Final = TypeAdapter(date | None)
_IDS: Final = TypeAdapter(frozenset[str] | None)
_RULES: Final = TypeAdapter(tuple[Rule, ...])


def sample() -> tuple[Bars, Reference]:
    """Return the built-in sample."""
    bars = Bars.read([sample_file()])
    return bars, Reference.read(SAMPLE, bars)


def folder(path: Path) -> tuple[Bars, Reference]:
    """Return the data of a folder; raise ConfigurationError if it cannot be replayed."""
    bars = Bars.read(files_of(path, FILES), path)
    return bars, Reference.read(path, bars)


class Replay:
    """The shown data, and the scripted faults."""

    def __init__(self, shown: Shown) -> None:
        self.shown = shown
        self.script = Script()

    def fault(self, path: str, query_text: str) -> Fault | None:
        """Return the fault of a request, if it has one."""
        return self.script.fault(path, query_text)

    def answer(self, path: str, query_text: str, base_url: str) -> Json:
        """Return the body of one GET; raise RefusedError."""
        for pattern, answer in _ANSWERS.items():
            if (match := pattern.fullmatch(path)) is not None:
                part = {name: unquote(text) for name, text in match.groupdict().items()}
                return answer(self.shown, part, query_text, base_url)
        raise not_found(f"no such endpoint: {path}")

    def change(self, path: str, body: bytes) -> None:
        """Apply a PUT; raise RefusedError."""
        try:
            match path:
                case "/replay/faults":
                    self.script = Script(_RULES.validate_json(body))
                case "/replay/hidden":
                    self.shown = replace(self.shown, hidden=_SYMBOLS.validate_json(body))
                case "/replay/splits":
                    self.shown = replace(self.shown, published=self._ids(body))
                case "/replay/as-of":
                    self.shown = replace(self.shown, as_of=_DAY.validate_json(body))
                case "/replay/since":
                    self.shown = replace(self.shown, since=_DAY.validate_json(body))
                case _:
                    raise not_found(f"no such endpoint: {path}")
        except ValidationError as error:
            raise bad_request(f"{path}: {error}") from error

    def _ids(self, body: bytes) -> frozenset[str] | None:
        ids = _IDS.validate_json(body)
        split_ids = {split.id for split in self.shown.reference.splits}
        if ids is not None and not ids <= split_ids:
            raise bad_request(
                f"no such split: {', '.join(sorted(ids - split_ids))}; there are {', '.join(sorted(split_ids))}"
            )
        return ids
