"""Starts and supervises the processes of one machine; boot, stop, status, check."""
