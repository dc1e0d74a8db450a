"""Date files into one data.parquet a symbol: the router function and the Batch worker."""
