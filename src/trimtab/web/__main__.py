"""The web process of an engine: `python -m trimtab.web`, started by the supervisor with TRIMTAB_SETTINGS."""

from trimtab.web.process import main

main()
