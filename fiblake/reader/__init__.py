"""The reader of the lake: `import fiblake; fiblake.open().bars("AAPL", "21d")`."""
