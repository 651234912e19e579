"""Results by test.

In reading order: `tests` (what a user writes), `pytest_plugin` and `split` (what runs in the sandbox), `junit`, `suites` (a run's side),
`ledger`, `quarantine`, `heat` (a page).
"""
