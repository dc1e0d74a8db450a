"""The lake for whoever reads it: `import fiblake; fiblake.open().bars("AAPL", "21d")`."""
