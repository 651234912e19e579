"""Profiling: what every process on the machine spends its time on, always on, kept, and compared at every deploy."""
