"""The name that fiblake.calendar had until 0.1: kept for operators' scripts until 0.3, imported by nothing of ours."""

from fiblake.calendar import *  # noqa: F403
