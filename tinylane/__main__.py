"""`python -m tinylane`: the command line."""

from tinylane.cli import main

raise SystemExit(main())
