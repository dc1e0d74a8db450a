"""The vendor's flat files: one gzipped CSV for each session with all tickers, loaded many sessions at a time."""
