"""Daily bars into Fibonacci-interval buckets: silver."""
