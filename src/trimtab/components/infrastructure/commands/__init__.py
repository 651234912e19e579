"""`trimtab provider`, and what it puts into the API as the administrator who runs it."""
