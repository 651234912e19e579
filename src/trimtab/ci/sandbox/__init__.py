"""Running one step, as an ordinary user.

In reading order: `rootfs` (layers of an image), `container`, `steps` (the executor), `plan` and `launch` (the program inside), `limits`,
`services`, `space` and `kept` (directories and their leases), `shell`.
"""
