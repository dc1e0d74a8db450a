"""The name that fiblake.errors had until 0.1: kept for operators' scripts until 0.3, imported by nothing of ours."""

from fiblake.errors import *  # noqa: F403
