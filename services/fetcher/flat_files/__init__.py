"""The vendor's flat files: one gzipped CSV a session with the bars of all tickers, loaded many sessions at a time."""
