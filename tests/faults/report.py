"""The report of a run that failed."""

from collections.abc import Sequence

from tests.faults.world import World

MOST_SENTENCES = 20


def describe(how: str, world: World, wrong: Sequence[str]) -> str:
    """Return the journal (a line a request), what is wrong, and the command that shows it again."""
    more = [f"... and {len(wrong) - MOST_SENTENCES} more"] if len(wrong) > MOST_SENTENCES else []
    lines = ["", *world.cloud.journal, "", *(f"WRONG: {fault}" for fault in wrong[:MOST_SENTENCES]), *more]
    return "\n".join([*lines, f"to see it again: make faults {how}"])
