"""Throw-away clusters: engines of their own on this machine, made by the dozen for tests and removed without a trace.

    create --> places (a directory, networks, ports, a record) --> `trimtab --data HOME/NAME/data start`, one process each
                 |                                                      ^
                 lease: a process and an end --> warden, reap --> remove: `trimtab --data HOME/NAME/data uninstall --yes`

In reading order: `leases`, `places`, `variants`, `images`, `copies`, `create`, `remove`, `warden`.
"""
