"""What is known of a symbol: one record for each company that has borne it (pure)."""

from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Final

BEGINNING: Final = date(1962, 1, 2)
"""Where a company's time begins if nobody knows when: the calendar's first session."""


@dataclass(frozen=True, slots=True)
class SymbolRecord:
    """A row of symbol_metadata: one company that bears, or bore, the symbol.

    It bore it from session `valid_from` to session `valid_to` (None: it still does). `industry` is the SIC's
    description, `sector` the SIC's division. The `history_` fields belong to whoever loads histories.
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
