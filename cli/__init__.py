"""The `fiblake` command: the operators' interface to the services, without logic of its own."""
