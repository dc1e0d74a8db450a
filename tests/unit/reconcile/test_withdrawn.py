"""A withdrawn bar in the audit: silver follows its event, and a lost event is repaired."""

from datetime import date

import pytest

from fiblake.calendar import nyse
from fiblake.lake import INTERVALS
from services.consolidator.consolidate import Consolidator
from services.consolidator.withdraw import withdraw
from services.consolidator.worker import Worker
from services.reconcile.lag import Cause
from tests.fakes import LAKE, FakeTopic
from tests.unit.reconcile.test_heals import audited, healed
from tests.unit.resampler.daily import NOW, SESSIONS
from tests.unit.resampler.silver_lake import silver, whole_silver
from tests.unit.test_put_to_silver import START, World

NEAR = SESSIONS[START : START + 15]


def world_of(days: list[date], split: date | None = None) -> World:
    world = World(retention_days=None)
    for price, day in enumerate(days, 5):
        world.bar("AAPL", day, price)
    if split:
        world.splits("AAPL", {split: (1, 2)})
    healed(world, audited(world))
    assert audited(world).lags == []
    return world


def withdraw_from(world: World, session: date) -> list[str]:
    """Withdraw a bar; return the events that were published."""
    topic = FakeTopic()
    worker = Worker(Consolidator(world.store, LAKE, nyse()), topic, "run", lambda: NOW, 1, None)
    withdraw(worker, "AAPL", session, "jane", "")
    del world.bronze["AAPL"][session]
    return [event.model_dump_json() for event in topic.published]


def assert_silver_is_right(world: World) -> None:
    for interval in INTERVALS:
        assert silver(world.store, interval) == whole_silver(world.bronze, interval, world.facts)
    assert audited(world).lags == []


@pytest.mark.parametrize("split", [None, NEAR[3], NEAR[14], NEAR[7]], ids=str)
@pytest.mark.parametrize("days", [NEAR, [NEAR[0], NEAR[7], NEAR[14]]], ids=["dense", "sparse"])
@pytest.mark.parametrize("place", [0, 7, 14])
def test_silver_follows_the_event_of_a_withdrawal(days: list[date], place: int, split: date | None) -> None:
    world = world_of(days, split)
    events = withdraw_from(world, NEAR[place])
    for interval in INTERVALS:
        world.resample(interval, events)
    assert_silver_is_right(world)


@pytest.mark.parametrize("place", [0, 7, 14])
def test_the_audit_makes_good_a_withdrawal_whose_event_was_lost(place: int) -> None:
    world = world_of(NEAR)
    withdraw_from(world, NEAR[place])
    report = audited(world)
    assert {lag.cause for lag in report.lags} == {Cause.SILVER}
    assert healed(world, report)
    assert_silver_is_right(world)
