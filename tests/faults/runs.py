"""Many runs in one process: `make faults` divides its runs among processes."""

from tests.faults import schedules
from tests.faults.actors import simulated
from tests.faults.report import describe
from tests.faults.scenarios import SCENARIOS, AtRequest, points, run
from tests.faults.world import INTERVALS, World

Failure = tuple[str, str]
"""The command that repeats it, and the report."""


def run_scenario(number: int, only: str) -> tuple[int, list[Failure]]:
    """Run all points of a scenario, or the selected ones; return how many, and the failures."""
    scenario, runs, failures = SCENARIOS[number], 0, list[Failure]()
    if only and only not in scenario.name and not only.startswith(scenario.name):
        return 0, []
    with simulated(INTERVALS):
        world, _, wrong = run(scenario, lambda _world: AtRequest())
        failures += _failure(f'ONLY="{scenario.name}"', world, wrong)
        for point in points(scenario, thorough=True):
            if only in scenario.name or only == str(point):
                runs += 1
                world, _, wrong = run(scenario, point.plan)
                failures += _failure(f'ONLY="{point}"', world, wrong)
    return runs, failures


def run_seeds(seeds: list[int]) -> tuple[int, list[Failure]]:
    """Run these seeds; return how many, and the failures."""
    failures: list[Failure] = []
    with simulated(INTERVALS):
        for seed in seeds:
            failures += _failure(f"SEED={seed}", *schedules.run(seed))
    return len(seeds), failures


def _failure(how: str, world: World, wrong: list[str]) -> list[Failure]:
    return [(how, describe(how, world, wrong))] if wrong else []
