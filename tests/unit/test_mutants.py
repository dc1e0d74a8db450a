from collections import Counter

import pytest

from tests.faults.mutants import MUTANTS, REPOSITORY, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.guard)
def test_the_text_that_a_mutant_changes_is_once_in_its_file(mutant: Mutant) -> None:
    assert (REPOSITORY / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.guard)
def test_the_tests_that_a_mutant_runs_exist(mutant: Mutant) -> None:
    files = [argument.partition("::")[0] for argument in mutant.tests if ".py" in argument]
    assert files
    assert [file for file in files if not (REPOSITORY / file).is_file()] == []


def test_each_mutant_removes_another_guard() -> None:
    assert [guard for guard, count in Counter(mutant.guard for mutant in MUTANTS).items() if count > 1] == []
