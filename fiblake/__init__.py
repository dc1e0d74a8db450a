"""The lake in Python: `fiblake.open().bars("AAPL", "21d").to_pandas()`.

The other modules of this package define the format of the lake: keys, schemas, calendar, adjustment, buckets, and how
bytes are decoded. `import fiblake` imports none of them, so that it is fast: each is loaded at its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fiblake.errors import FiblakeError
    from fiblake.reader.lake import Lake
    from fiblake.reader.opening import open_lake as open  # noqa: A004 (fiblake.open is the way in)
    from fiblake.reader.result import Result

__all__ = ["FiblakeError", "Lake", "Result", "open"]

_PLACES: Final = {
    "FiblakeError": ("fiblake.errors", "FiblakeError"),
    "Lake": ("fiblake.reader.lake", "Lake"),
    "Result": ("fiblake.reader.result", "Result"),
    "open": ("fiblake.reader.opening", "open_lake"),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 (any of the package's names)
    if name not in _PLACES:
        raise AttributeError(f"module 'fiblake' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
