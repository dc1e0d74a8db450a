"""Merge date files into one data.parquet for each symbol: the router function and the Batch worker."""
