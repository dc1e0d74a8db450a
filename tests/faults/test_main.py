"""What a person types: `make faults`."""

import subprocess
import sys

from tests.faults.mutants import REPOSITORY


def faults(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.faults", "--processes", "1", *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPOSITORY)


def test_the_scenarios_that_are_meant_are_run_in_processes_of_their_own() -> None:
    ran = faults("--only", "arrivals are routed")
    assert (ran.returncode, ran.stderr) == (0, "")
    runs, _, rest = ran.stdout.partition(" runs in ")
    assert int(runs) > 10
    assert rest.endswith(" s, 0 failed\n")


def test_to_run_nothing_is_no_success() -> None:
    ran = faults("--only", "no scenario has such a name")
    assert ran.returncode == 1
    assert ran.stdout.startswith("0 runs in ")


def test_one_seed_shows_its_journal() -> None:
    ran = faults("--seed", "3")
    assert ran.returncode == 0
    assert "END OF FAULTS" in ran.stdout
    assert ran.stdout.endswith("to see it again: make faults SEED=3\n")
