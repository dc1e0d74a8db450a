"""One module a version, in plain SQL; applied in the order of `down_revision`, never edited once released."""
