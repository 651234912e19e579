"""Names of places in programs: what parses strangers' files, where better files come from, and why a place has no name."""
