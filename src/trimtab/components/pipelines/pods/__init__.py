"""A step of `trimtab ci run --on CONTEXT` as a pod of that cluster.

In reading order: `place` (which cluster, and how images get there), `image` (a step's image with the tools it needs), `objects` (what
the API is given), `script` (what runs inside), `archive` (trees as streams, both ways), `follow` (what the API says of the pod),
`executor`.
"""
