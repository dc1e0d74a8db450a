"""One thread computes, other threads wait for requests; the results are the same as those of each work alone."""

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.errors import ConflictError, FiblakeError, UpstreamError
from services.consolidator.interleaving import Steps, run_alone, run_interleaved
from shared.outcomes import UnexpectedError


def sums(numbers: list[int]) -> Steps[int]:
    """Return the sum of the answers to one request for each number; a refused one (-1) counts nothing."""
    total = 0
    for number in numbers:
        try:
            total += yield request_of(number)
        except ConflictError:
            continue
    return total


def request_of(number: int) -> Callable[[], int]:
    def request() -> int:
        if number == -1:
            raise ConflictError("refused")
        if number == -2:
            raise UpstreamError("down")
        return number

    return request


@given(st.lists(st.lists(st.integers(-2, 9), max_size=4), max_size=12), st.integers(1, 5))
def test_each_work_has_the_outcome_that_it_has_alone(works: list[list[int]], at_once: int) -> None:
    outcomes = run_interleaved([sums(numbers) for numbers in works], at_once)

    assert len(outcomes) == len(works)
    for numbers, outcome in zip(works, outcomes, strict=True):
        if -2 in numbers:
            assert isinstance(outcome, UpstreamError)
            with pytest.raises(UpstreamError):
                run_alone(sums(numbers))
        else:
            assert outcome == run_alone(sums(numbers)) == sum(n for n in numbers if n > 0)


def test_this_thread_computes_and_others_wait() -> None:
    computing, waiting = set[int](), set[int]()

    def work() -> Steps[None]:
        for _ in range(3):
            computing.add(threading.get_ident())
            yield lambda: waiting.add(threading.get_ident())

    run_interleaved([work() for _ in range(20)], 4)

    assert computing == {threading.get_ident()}
    assert not computing & waiting


def test_requests_of_several_works_wait_at_the_same_time_and_of_no_more_than_are_allowed() -> None:
    together = threading.Barrier(3)
    begun, ended, most = 0, 0, 0

    def work() -> Steps[int]:
        nonlocal begun, ended, most
        begun += 1
        most = max(most, begun - ended)
        place: int = yield lambda: together.wait(timeout=60)
        ended += 1
        return place

    outcomes = run_interleaved([work() for _ in range(9)], 3)

    assert sorted(str(outcome) for outcome in outcomes) == sorted("012" * 3)
    assert most == 3


def test_a_work_that_ends_without_a_request_makes_room_for_the_next() -> None:
    def work(number: int) -> Steps[int]:
        yield from ()
        return number

    assert run_interleaved([work(number) for number in range(2_000)], 2) == list(range(2_000))


def test_a_fault_of_a_library_is_the_error_of_one_work_only() -> None:
    def broken() -> Steps[int]:
        yield lambda: 1
        raise ZeroDivisionError

    outcomes = run_interleaved([broken(), sums([1, 2])], 2)

    assert isinstance(outcomes[0], UnexpectedError)
    assert isinstance(outcomes[0], FiblakeError)
    assert outcomes[1] == 3
