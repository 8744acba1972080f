"""Run the command line: ``python -m repli``."""

from repli.flows.cli.app import main

main()
