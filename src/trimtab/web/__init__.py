"""The read-only web server: the frame in which components put their views."""
