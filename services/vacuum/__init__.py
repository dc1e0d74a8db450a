"""What the lake can do without: merged source files, by hand or by month."""
