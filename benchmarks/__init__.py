"""Benchmarks of fiblake beside other tools that do the same work."""
