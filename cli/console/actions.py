"""The console's actions on dead letters: those of `fiblake dlq`, for one queue and one reason."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fiblake.errors import NotFoundError

if TYPE_CHECKING:
    from cli.target import Target

MOST_REPLAYS: Final = 3
VERBS: Final = ("replay", "discard")


def letters(stack: "Target", queue: str, most: int) -> list[dict[str, Any]]:
    """Return the dead letters of one queue (empty: of all), as `fiblake dlq show --json` prints them."""
    from cli.dead_letters import dlqs_of, letters_in
    from shared.dead_letters import Filter

    places = dlqs_of(stack, [queue] if queue else None)
    by_queue = letters_in(places, Filter(), datetime.now(UTC), most)
    return [letter.facts() for _, some in by_queue for letter in some]


def act(stack: "Target", verb: str, queue: str, reason: str, *, is_sure: bool) -> dict[str, Any]:
    """Replay or discard the letters of `queue` whose reason contains `reason`; unless `is_sure`, only count them.

    Returns `meant` and `done`; for discarded letters also `file`, to which they are written first.
    """
    from cli.dead_letters import discard_letters, dlqs_of, letters_in
    from shared.dead_letters import Filter

    if verb not in VERBS or not queue or not reason:
        raise NotFoundError("name a queue, a reason, and `replay` or `discard`")
    now, wanted = datetime.now(UTC), Filter(reason=reason)
    places = dlqs_of(stack, [queue])
    meant = sum(len(some) for _, some in letters_in(places, wanted, now))
    if not is_sure or not meant:
        return {"meant": meant, "done": 0, "file": None}
    if verb == "discard":
        file = Path(f"dead-letters-{now:%Y%m%dT%H%M%SZ}.jsonl").absolute()
        return {"meant": meant, "done": discard_letters(places, wanted, now, file), "file": str(file)}
    count = 0
    for place in places:
        outcome = place.replay(wanted, now, MOST_REPLAYS, None)
        if place.name == "consolidation" and outcome.done:
            stack.start_workers(outcome.done)
        count += outcome.done
    return {"meant": meant, "done": count, "file": None}
