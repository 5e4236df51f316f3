"""`python -m fibrin` is the same as `fibrin`."""

from fibrin.cli import main

main()
