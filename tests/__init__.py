"""Tests; `tests.fakes` is what they share."""
