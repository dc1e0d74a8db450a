"""Delete what the lake no longer needs: merged source files, and old rows in Postgres."""
