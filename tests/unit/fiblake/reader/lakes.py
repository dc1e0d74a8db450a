"""Lakes in memory for the reader: bronze in a bucket, and silver computed from it by the resampler itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from hypothesis import strategies as st

from fiblake import Lake
from fiblake.lake import INTERVALS
from tests.fakes import MemoryObjectStore
from tests.unit.resampler.daily import NO_FACTS, NOW, ORDINAL, SESSIONS, Daily, Facts, flat
from tests.unit.resampler.silver_lake import changed, lay, resampler

START = ORDINAL[date(2013, 1, 2)]
SOME = SESSIONS[START : START + 90]
SYMBOLS = ("AAPL", "BRK", "BRK.B", "zz")


@dataclass(frozen=True)
class Contents:
    """What a lake is made of."""

    bronze: Mapping[str, Mapping[date, Daily]]
    facts: Mapping[str, Facts] = field(default_factory=dict)

    def of(self, symbol: str) -> Facts:
        return self.facts.get(symbol, NO_FACTS)


def lake_of(contents: Contents, cache: Path, intervals: Sequence[int] = INTERVALS, *, adjusted: bool = True) -> Lake:
    """Make a lake with these silver tables, and open it; the requests for that are not in the journal."""
    store = MemoryObjectStore()
    for symbol, days in contents.bronze.items():
        lay(store, symbol, days, contents.of(symbol))
    for interval in intervals:
        changes = [change for symbol, days in contents.bronze.items() for change in changed(symbol, since=min(days))]
        assert resampler(store, interval, adjusted=adjusted).resample(changes, NOW) == {}
    store.journal.clear()
    return Lake(store, cache=cache, clock=lambda: NOW)


sessions = st.sampled_from(SOME)
splits = st.tuples(sessions, st.sampled_from([1, 2, 10]), st.sampled_from([1, 3, 20]))
facts = st.builds(
    Facts,
    st.lists(splits, max_size=3, unique_by=lambda split: split[0]).map(tuple),
    st.lists(sessions, max_size=2, unique=True).map(tuple),
)
days = st.dictionaries(sessions, st.integers(5, 500).map(flat), min_size=1, max_size=40)
contents = st.builds(
    Contents,
    st.dictionaries(st.sampled_from(SYMBOLS), days, min_size=1),
    st.dictionaries(st.sampled_from(SYMBOLS), facts),
)
