"""The deployables, one package each; none imports another."""
