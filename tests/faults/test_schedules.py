"""Random schedules: a few dozen seeds here, any number with `make faults SEEDS=1000`."""

import pytest

from tests.faults import schedules
from tests.faults.report import describe

SEEDS = range(40)


@pytest.mark.parametrize("seed", SEEDS)
def test_with_any_failure_death_or_rival_the_lake_ends_with_the_bars_that_were_put(seed: int) -> None:
    world, wrong = schedules.run(seed)
    assert not wrong, describe(f"SEED={seed}", world, wrong)


def test_a_seed_is_the_same_schedule_each_time() -> None:
    first, again = (schedules.run(7)[0].cloud.journal for _ in range(2))
    assert first == again
    assert first != schedules.run(8)[0].cloud.journal
