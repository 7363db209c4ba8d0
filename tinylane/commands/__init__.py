"""One module for each command: its flags and its `run`, which imports what it needs."""
