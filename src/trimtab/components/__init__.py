"""One folder, one capability, on or off; each has the same rooms."""
