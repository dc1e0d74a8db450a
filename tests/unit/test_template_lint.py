"""The linter's view of what CloudFormation is given: SAM's transform done, each variant decided, in four regions."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.fakes import REPOSITORY
from tests.unit.variants import VARIANTS, template_of

REGIONS = ("us-east-1", "us-west-2", "eu-central-1", "ap-northeast-1")
UNUSED = "W2001"
"""A parameter that nothing uses: in a variant there are such."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_lints_clean_in_four_regions(variant: str, tmp_path: Path) -> None:
    file = tmp_path / "template.json"
    file.write_text(json.dumps(template_of(VARIANTS[variant]), indent=1), encoding="utf-8")
    process = subprocess.run(
        [REPOSITORY / ".tools/sam/bin/cfn-lint", "--regions", *REGIONS, "--ignore-checks", UNUSED, "--", file],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (process.stdout, process.returncode) == ("", 0)
