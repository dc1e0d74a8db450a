"""The trading calendar's data file, and the script that writes it."""
