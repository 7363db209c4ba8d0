"""Training: from scratch (`shell_game`). Hangs off the decoder and never reaches into it."""
