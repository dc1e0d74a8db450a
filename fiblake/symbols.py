"""The records of a symbol: one for each company that had it (pure)."""

from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Final

BEGINNING: Final = date(1962, 1, 2)
"""The first day of a company if it is unknown: the calendar's first session."""


@dataclass(frozen=True, slots=True)
class SymbolRecord:
    """A row of symbol_metadata: one company that has, or had, the symbol.

    It had the symbol from session `valid_from` to session `valid_to` (None: until now). `industry` is the SIC's
    description, `sector` the SIC's division. Only the loader of histories writes the `history_` fields.
    """

    symbol: str
    valid_from: date
    valid_to: date | None
    composite_figi: str | None
    share_class_figi: str | None
    name: str | None
    industry: str | None
    sector: str | None
    sic_code: str | None
    exchange: str | None
    type: str | None
    currency: str | None
    list_date: date | None
    delisted_date: date | None
    active: bool
    first_seen: datetime
    last_seen: datetime
    details_at: datetime | None = None
    history_requested_at: datetime | None = None
    history_loaded_at: datetime | None = None
    history_from: date | None = None


RECORD_FIELDS: Final = tuple(field.name for field in fields(SymbolRecord))
