"""Release notes with search and a feed."""
