"""The `trimtab` command; groups contributed by components."""
