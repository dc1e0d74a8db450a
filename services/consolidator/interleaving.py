"""Work on several symbols at once: one thread computes, the threads of a pool wait for requests.

The work on a symbol is a generator. It yields each request to S3 or SQS as a function without arguments, and is resumed
with the function's result, or with its error. Several threads that compute need more CPU time, because each finds cold
caches and has its own memory (docs/performance.md, "Consolidation").
"""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from fiblake.errors import FiblakeError
from shared.outcomes import catch_errors

ResultT = TypeVar("ResultT")

Request = Callable[[], Any]
Steps = Generator[Request, Any, ResultT]
"""The work on one symbol: a generator of requests, which returns the result."""


@dataclass(frozen=True, slots=True)
class _End(Generic[ResultT]):
    """The work has ended with this result."""

    result: ResultT


def run_alone(steps: Steps[ResultT]) -> ResultT:
    """Do the work in this thread, with its requests, and return its result; errors are those of the work."""
    answer: Future[Any] | None = None
    while not isinstance(outcome := _advance(steps, answer), _End):
        answer = Future()
        try:
            answer.set_result(outcome())
        except FiblakeError as error:  # `steps` may handle it; every other error ends the work
            answer.set_exception(error)
    return outcome.result


def run_interleaved(works: Iterable[Steps[ResultT]], at_once: int) -> list[ResultT | FiblakeError]:
    """Do all works, `at_once` at a time, and return the result or the error of each, in their order.

    This thread computes. Work whose request is answered comes before work that has not begun.
    """
    outcomes: dict[int, ResultT | FiblakeError] = {}
    answered: SimpleQueue[tuple[int, Steps[ResultT], Future[Any]]] = SimpleQueue()
    not_begun = enumerate(works)
    in_work = 0
    with ThreadPoolExecutor(at_once) as pool:
        while True:
            answer: Future[Any] | None = None
            if answered.empty() and in_work < at_once and (begun := next(not_begun, None)):
                place, steps = begun
                in_work += 1
            elif in_work:
                place, steps, answer = answered.get()
            else:
                return [outcomes[place] for place in sorted(outcomes)]
            outcome = catch_errors(_advance, steps, answer)
            if isinstance(outcome, _End | FiblakeError):
                outcomes[place] = outcome.result if isinstance(outcome, _End) else outcome
                in_work -= 1
            else:
                pool.submit(outcome).add_done_callback(partial(_put, answered, place, steps))


def _put(answered: "SimpleQueue[Any]", place: int, steps: Steps[Any], answer: Future[Any]) -> None:
    answered.put((place, steps, answer))


def _advance(steps: Steps[ResultT], answer: Future[Any] | None) -> "Request | _End[ResultT]":
    """Resume the work with the answer to its request (None: begin it); return its next request, or its end."""
    try:
        if answer is None:
            return next(steps)
        if (error := answer.exception()) is not None:
            return steps.throw(error)
        return steps.send(answer.result())
    except StopIteration as end:
        return _End(end.value)
