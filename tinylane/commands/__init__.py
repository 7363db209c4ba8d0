"""The commands of `tinylane.commands.cli`, one module each; a command imports what it needs when it runs."""
