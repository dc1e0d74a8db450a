"""The name that fiblake.lake had until 0.1: kept for operators' scripts until 0.3, imported by nothing of ours."""

from fiblake.lake import *  # noqa: F403
