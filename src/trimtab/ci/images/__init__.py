"""Images that steps start from (`bases`), make (`make`), and send away (`publish`)."""
