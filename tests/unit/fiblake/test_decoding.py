"""The limit of memory for one decoded object."""

import pytest

from fiblake.decoding import limit
from fiblake.errors import ConfigurationError


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "٣"])
def test_a_limit_that_is_none_is_a_setting_to_set_right(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("READ_LIMIT_MB", text)
    limit.cache_clear()
    try:
        with pytest.raises(ConfigurationError, match=r"READ_LIMIT_MB is .*: set it to a whole number of megabytes"):
            limit()
    finally:
        limit.cache_clear()
