"""One module for each version, in plain SQL; applied in the order of `down_revision`, never edited once released."""
