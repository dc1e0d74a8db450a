"""How fast fiblake is, measured side by side with the ways others do the same work."""
