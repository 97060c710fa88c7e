"""`python -m tsstack`: the same as `tsstack`."""

from tsstack.cli.main import main

main()
