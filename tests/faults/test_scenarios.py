"""Systematic scenarios: a crash after every request of an actor, and a rival before every request."""

import pytest

from tests.faults import scenarios
from tests.faults.report import describe
from tests.faults.scenarios import AtRequest, Scenario


@pytest.mark.parametrize("scenario", scenarios.SCENARIOS, ids=lambda scenario: scenario.name.replace(" ", "-"))
def test_at_whichever_request_the_actor_dies_or_others_act_the_lake_heals(scenario: Scenario) -> None:
    outcomes = set()
    for point in scenarios.points(scenario, thorough=False):
        world, plan, wrong = scenarios.run(scenario, point.plan)
        assert not wrong, describe(f'ONLY="{point}"', world, wrong)
        outcomes.add(bool(plan.met))
    assert outcomes == {True}, "a point was not met: the scenario is not the same each time"


@pytest.mark.parametrize("scenario", scenarios.SCENARIOS, ids=lambda scenario: scenario.name.replace(" ", "-"))
def test_without_a_fault_or_a_rival_all_is_well(scenario: Scenario) -> None:
    world, plan, wrong = scenarios.run(scenario, lambda _world: AtRequest())
    assert not wrong, describe(f'ONLY="{scenario.name}"', world, wrong)
    assert len(plan.requests) > 1
