"""Market data in: bars from the vendor into S3 and Postgres."""
