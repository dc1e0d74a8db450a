"""The embedded stack: everything the chain needs on one machine, without Docker or an AWS account."""
