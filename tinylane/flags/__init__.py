"""The command line's flags, one function a command. Nothing heavy is imported here."""
