"""Files: written whole or not at all, sealed with a checksum, read within limits."""
