"""The trading calendar's data file, and what writes it."""
