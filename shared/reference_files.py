"""Read a symbol's files of splits, identities and dividends, for the worker and the audit."""

from fiblake.adjustment import Reference
from fiblake.errors import FiblakeError
from fiblake.lake import dividends_key, identities_key, splits_key
from fiblake.reference import payouts, read_dividends, read_identities, read_splits, reference_of
from shared.objects import ObjectStore
from shared.outcomes import catch_errors


def read_reference(store: ObjectStore, symbol: str, stored: Reference) -> tuple[Reference, dict[str, FiblakeError]]:
    """Read a symbol's reference files (no file: none); return the reference, and the faults by key.

    If the splits or the identities cannot be read, both stay as in `stored`. Dividends are independent of the two:
    only their own file affects them.
    """
    keys = splits_key(symbol), identities_key(symbol), dividends_key(symbol)
    files = store.get_many(keys)
    splits = catch_errors(lambda: read_splits(files[0].data, symbol) if files[0] else ())
    identities = catch_errors(lambda: read_identities(files[1].data, symbol) if files[1] else ())
    dividends = catch_errors(lambda: payouts(read_dividends(files[2].data, symbol)) if files[2] else ())
    outcomes = dict(zip(keys, (splits, identities, dividends), strict=True))
    faults = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, FiblakeError)}
    reference = stored.of_silver
    if not isinstance(splits, FiblakeError) and not isinstance(identities, FiblakeError):
        reference = reference_of(splits, identities)
    return reference.with_dividends(stored.dividends if isinstance(dividends, FiblakeError) else dividends), faults
