"""The name that fiblake.bars had until 0.1: kept for operators' scripts until 0.3, imported by nothing of ours."""

from fiblake.bars import *  # noqa: F403
