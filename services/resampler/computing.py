"""How many threads may compute at once."""

import os
from threading import BoundedSemaphore
from typing import Final


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


COMPUTING: Final = BoundedSemaphore(usable_cores() + 1)
"""Held by a thread while it computes, but not while it waits for a service: one more than the cores, because one waits
for the interpreter's lock.

Many requests are in flight, so there are many threads. Without this limit all of them want the interpreter's lock as
soon as they have an answer, and each call of Arrow or numpy that releases the lock wakes another one. With eight
threads on two cores, a full resample spent a quarter of its CPU time on that.
"""
