"""Knowing that nothing has changed, and saying what did.

In reading order: `selection`, `tree` (digests of files), `keys`, `index` and `blobs` (what is on disk), `local` (results by key),
`lookups` (what a run asks), `why`, `evict`, `volumes`, `remote` with `remote_http` and `remote_oci`.
"""
