"""Tasks: problems with a prompt, an answer that can be checked, and a way to share the work."""
