"""`fiblake console`: the lake at a glance, in a browser, served on loopback."""
