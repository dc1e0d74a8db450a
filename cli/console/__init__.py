"""`fiblake console`: the lake in a browser, served on loopback."""
