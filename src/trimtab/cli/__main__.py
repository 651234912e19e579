"""`python -m trimtab.cli`: the same as `trimtab`."""

from trimtab.cli import main

main()
