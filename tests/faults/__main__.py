"""Run many schedules and all scenarios thoroughly: `make faults SEEDS=1000`; or one again: `make faults SEED=7`."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.faults import schedules
from tests.faults.actors import simulated
from tests.faults.report import describe
from tests.faults.runs import Failure, run_scenario, run_seeds
from tests.faults.scenarios import SCENARIOS
from tests.faults.world import INTERVALS

SEEDS_AT_ONCE = 10
JOURNALS_SHOWN = 3
PROGRESS = 100
"""The number of runs after which a line shows the progress."""


def main() -> int:
    """Run the requested schedules and scenarios; the exit code is 1 if any of them failed."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=40, help="how many random schedules")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run this seed alone, and show its journal")
    parser.add_argument(
        "--only", default="", help="run only the scenarios, or the points of them, with this in the name"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.seed is not None:
        return _show_seed(options.seed)
    began, failures, runs = time.monotonic(), list[Failure](), 0
    for number, some in _all(options):
        if (runs + number) // PROGRESS > runs // PROGRESS:
            sys.stdout.write(f"{runs + number} runs so far, {len(failures) + len(some)} failed\n")
        runs += number
        failures += some
        for _, report in some if len(failures) <= JOURNALS_SHOWN else ():
            sys.stdout.write(f"{report}\n")
        sys.stdout.flush()
    lines = [f"  make faults {how}" for how, _ in failures]
    sys.stdout.write(
        "\n".join([f"{runs} runs in {time.monotonic() - began:.0f} s, {len(failures)} failed", *lines, ""])
    )
    return 1 if failures or not runs else 0


def _all(options: argparse.Namespace) -> Iterator[tuple[int, list[Failure]]]:
    """Run scenarios and seeds in several processes; return the number of runs and the failures as they come."""
    seeds = [] if options.only else list(range(options.first, options.first + options.seeds))
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        parts = [pool.submit(run_scenario, number, options.only) for number in range(len(SCENARIOS))]
        parts += [pool.submit(run_seeds, seeds[i : i + SEEDS_AT_ONCE]) for i in range(0, len(seeds), SEEDS_AT_ONCE)]
        for part in parts:
            yield part.result()


def _show_seed(seed: int) -> int:
    with simulated(INTERVALS):
        world, wrong = schedules.run(seed)
    sys.stdout.write(describe(f"SEED={seed}", world, wrong or ["nothing"]) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
