"""`python -m ecgecho`."""

from ecgecho.cli import main

main()
