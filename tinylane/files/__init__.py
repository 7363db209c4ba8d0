"""Files that cannot be trusted, and files that must never be half-written."""
