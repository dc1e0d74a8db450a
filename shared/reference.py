"""The name that fiblake.reference had until 0.1: kept for operators' scripts until 0.3, imported by nothing of ours."""

from fiblake.reference import *  # noqa: F403
