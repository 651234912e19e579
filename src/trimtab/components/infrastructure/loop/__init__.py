"""One resource kept true: looked at, planned, allowed, carried out, remembered, and let go in order."""
