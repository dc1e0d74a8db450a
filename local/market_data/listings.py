"""Answer requests for companies, splits and dividends: tickers, details, events and actions, in the vendor's shapes."""

import math
import operator
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, Final

from local.market_data.query import (
    Json,
    bad_request,
    choice,
    limit_of,
    listing,
    not_found,
    parameters,
    parse_date,
)
from local.market_data.reference import Company, Dividend, Split, cumulative, payout_factors
from local.market_data.shown import Shown

_TICKER_LIMITS: Final = (100, 1000)
_SPLIT_LIMITS: Final = (100, 5000)
_DIVIDEND_LIMITS: Final = (100, 5000)
_FILTERS: Final = {"ticker": "ticker", "type": "type", "market": "market", "exchange": "primary_exchange"}
_SPLIT_SORTS: Final = ("execution_date.desc", "execution_date.asc", "ticker.asc", "ticker.desc")
_DIVIDEND_SORTS: Final = ("ticker.asc", "ticker.desc", "ex_dividend_date.asc", "ex_dividend_date.desc")
_COMPARISONS: Final[dict[str, Callable[[date, date], bool]]] = {
    "": operator.eq, ".gt": operator.gt, ".gte": operator.ge, ".lt": operator.lt, ".lte": operator.le,
}  # fmt: skip
"""The comparison by the suffix of a date's name."""
_LAST_UPDATED: Final = "2026-01-02T00:00:00Z"


def tickers(shown: Shown, _part: Mapping[str, str], query_text: str, base_url: str) -> Json:
    """Return one page of the list of tickers, of today or of a `date`."""
    fields = parameters(query_text, {*_FILTERS, "active", "date", "sort", "order", "limit", "offset"})
    active = choice(fields, "active", ("true", "false")) == "true"
    choice(fields, "sort", ("ticker",))
    descending = choice(fields, "order", ("asc", "desc")) == "desc"
    day = parse_date(fields["date"]) if "date" in fields else None
    companies = [company for company in shown.companies() if day is None or (company.listed or date.min) <= day]
    rows = [_ticker(company, active=active) for company in companies if shown.trades(company, day) == active]
    wanted = {field: fields[name] for name, field in _FILTERS.items() if name in fields}
    chosen = [row for row in rows if all(row.get(field) == value for field, value in wanted.items())]
    limit = limit_of(fields, *_TICKER_LIMITS)
    body = listing(chosen[::-1] if descending else chosen, fields, limit, f"{base_url}/v3/reference/tickers")
    return body | {"count": len(body["results"])}


def details(shown: Shown, part: Mapping[str, str], query_text: str, _base_url: str) -> Json:
    """Return the details of a ticker that trades (on `date`, if the request has one)."""
    fields = parameters(query_text, {"date", "ticker"})  # the official client repeats the ticker in the query
    day = parse_date(fields["date"]) if "date" in fields else None
    for company in shown.companies():
        if company.ticker == part["ticker"] and shown.trades(company, day):
            return {"results": _ticker(company, active=True) | company.details, "status": "OK"}
    raise not_found("Ticker not found.")


def events(shown: Shown, part: Mapping[str, str], query_text: str, _base_url: str) -> Json:
    """Return the ticker changes of a company, named by its ticker or its composite FIGI; the latest first."""
    choice(parameters(query_text, {"types"}), "types", ("ticker_change",))
    named = [c for c in shown.companies() if part["ticker"] in (c.ticker, c.fields.get("composite_figi"))]
    if not named:
        raise not_found("Ticker not found.")
    company = max(named, key=shown.trades)
    changes = [
        (change.date, change.changed_to) for change in shown.reference.changes if change.ticker == company.ticker
    ]
    if not changes and company.listed is not None:
        changes = [(company.listed, company.ticker)]
    results = {name: company.fields.get(name, "") for name in ("name", "composite_figi", "cik")}
    return {
        "results": results | {"events": [_event(*change) for change in sorted(changes, reverse=True)]},
        "status": "OK",
    }


def splits(shown: Shown, _part: Mapping[str, str], query_text: str, base_url: str) -> Json:
    """Return one page of the list of splits; it has no count, as at the vendor."""
    companies = shown.splits()
    factors = cumulative(companies)
    rows = [_split(split, factors[split.id]) for split in companies]
    fields, rows = _chosen(rows, query_text, "adjustment_type", "execution_date", _SPLIT_SORTS)
    return listing(rows, fields, limit_of(fields, *_SPLIT_LIMITS), f"{base_url}/stocks/v1/splits")


def dividends(shown: Shown, _part: Mapping[str, str], query_text: str, base_url: str) -> Json:
    """Return one page of the list of dividends; it has no count, as at the vendor."""
    companies, known_splits = shown.dividends(), shown.splits()
    factors = payout_factors(companies, known_splits, shown.bars, shown.as_of or date.max)
    rows = [_dividend(dividend, factors[dividend.id], known_splits) for dividend in companies]
    fields, rows = _chosen(rows, query_text, "distribution_type", "ex_dividend_date", _DIVIDEND_SORTS)
    return listing(rows, fields, limit_of(fields, *_DIVIDEND_LIMITS), f"{base_url}/stocks/v1/dividends")


def _chosen(
    rows: list[Json], query_text: str, kind: str, day: str, sorts: tuple[str, ...]
) -> tuple[dict[str, str], list[Json]]:
    """Return the parameters, and the sorted rows that they select; `kind` and `day` name the columns of the filter."""
    exact, lists = {"ticker", kind}, {"ticker.any_of", f"{kind}.any_of"}
    dates = {f"{day}{suffix}": holds for suffix, holds in _COMPARISONS.items()}
    fields = parameters(query_text, exact | lists | {*dates, "limit", "sort", "offset"})
    for name in fields.keys() & dates.keys():
        day_asked = parse_date(fields[name])
        rows = [row for row in rows if dates[name](date.fromisoformat(row[day]), day_asked)]
    for name in fields.keys() & (exact | lists):
        allowed = fields[name].split(",") if name in lists else [fields[name]]
        rows = [row for row in rows if row[name.removesuffix(".any_of")] in allowed]
    for key in reversed(fields.get("sort", sorts[0]).split(",")):
        rows = sorted(rows, key=_sort_field(key, sorts), reverse=key.endswith(".desc"))
    return fields, rows


def _ticker(company: Company, *, active: bool) -> Json:
    row: Json = {**company.fields, "active": active, "last_updated_utc": _LAST_UPDATED}
    return row if active or company.delisted is None else row | {"delisted_utc": f"{company.delisted}T00:00:00Z"}


def _event(day: object, ticker: str) -> Json:
    return {"type": "ticker_change", "date": str(day), "ticker_change": {"ticker": ticker}}


def _split(split: Split, factor: float) -> Json:
    return {
        "id": split.id,
        "ticker": split.ticker,
        "execution_date": str(split.execution_date),
        "split_from": split.split_from,
        "split_to": split.split_to,
        "adjustment_type": split.adjustment_type,
        "historical_adjustment_factor": factor,
    }


def _dividend(dividend: Dividend, factor: float, splits: list[Split]) -> Json:
    later = [s for s in splits if s.ticker == dividend.ticker and s.execution_date > dividend.ex_dividend_date]
    return {
        "id": dividend.id,
        "ticker": dividend.ticker,
        "ex_dividend_date": str(dividend.ex_dividend_date),
        "cash_amount": dividend.cash_amount,
        "split_adjusted_cash_amount": round(
            dividend.cash_amount * math.prod(s.split_from / s.split_to for s in later), 6
        ),
        "historical_adjustment_factor": factor,
        **dividend.fields,
    }


def _sort_field(key: str, sorts: tuple[str, ...]) -> Callable[[Json], Any]:
    if key not in sorts:
        raise bad_request(f"'sort' must be of {', '.join(sorts)}, not {key!r}")
    return lambda row: row[key.partition(".")[0]]
