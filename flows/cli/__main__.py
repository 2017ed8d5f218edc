"""python -m flows.cli: the `deita` command without its script."""

from flows.cli.main import main

main()
