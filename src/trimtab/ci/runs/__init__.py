"""One run.

In reading order: `ports` (where the parts meet), `prepare`, `schedule`, `run`, `record`, `screen`, `report`, `spans` (a trace),
`far` (a run on another machine).
"""
