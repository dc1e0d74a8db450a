"""Fetch market data: bars from the vendor into S3 and Postgres."""
