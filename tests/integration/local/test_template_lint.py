"""The linter's findings in the template that CloudFormation gets: SAM's transform done, each variant decided, in four
regions.
"""

import json
import subprocess
from typing import Any

import pytest

from tests.fakes import REPOSITORY
from tests.unit.variants import VARIANTS, template_of

REGIONS = ("us-east-1", "us-west-2", "eu-central-1", "ap-northeast-1")
UNUSED = "W2001"
"""An unused parameter: a variant may have some."""


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Return what the linter finds in each variant. It reads all of them in one process, which halves its time."""
    folder = tmp_path_factory.mktemp("variants")
    files = {variant: folder / f"{number}.json" for number, variant in enumerate(VARIANTS)}
    for variant, file in files.items():
        file.write_text(json.dumps(template_of(VARIANTS[variant]), indent=1), encoding="utf-8")
    linter = [REPOSITORY / ".tools/sam/bin/cfn-lint", "--format", "json", "--regions", *REGIONS]
    linted = subprocess.run(
        [*linter, "--ignore-checks", UNUSED, "--", *files.values()], capture_output=True, text=True, check=False
    )
    assert linted.stderr == ""
    reported = json.loads(linted.stdout)
    assert bool(linted.returncode) == bool(reported)
    return {variant: [fault for fault in reported if fault["Filename"] == str(file)] for variant, file in files.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_lints_clean_in_four_regions(variant: str, findings: dict[str, list[Any]]) -> None:
    assert findings[variant] == []
