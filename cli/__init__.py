"""The `fiblake` command: the operators' face of the services, without logic of its own."""
