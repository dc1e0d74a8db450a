"""Which symbols wait to be consolidated, at a glance: by the ages of their files, without reading one."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from shared.lake import Bronze
from shared.objects import ObjectInfo

if TYPE_CHECKING:
    from datetime import datetime


def waiting(bronze: Bronze, listing: Iterable[ObjectInfo]) -> list[str]:
    """Give the symbols with a source file that is younger than their data.parquet, or that have none.

    `listing` is all of bronze. A glance: of a file put within the moments of a consolidation it may be wrong, and it
    knows nothing of silver. `reconcile` reads, and is exact.
    """
    consolidated: dict[str, datetime] = {}
    newest: dict[str, datetime] = {}
    for info in listing:
        if bronze.is_consolidated(info.key):
            consolidated[_symbol(bronze, info.key)] = info.last_modified
        elif bronze.is_source(info.key):
            symbol = _symbol(bronze, info.key)
            newest[symbol] = max(info.last_modified, newest.get(symbol, info.last_modified))
    return sorted(symbol for symbol, at in newest.items() if symbol not in consolidated or at > consolidated[symbol])


def _symbol(bronze: Bronze, key: str) -> str:
    return key.removeprefix(f"{bronze.prefix}/symbol=").partition("/")[0]
