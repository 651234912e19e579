"""What would be, asked and answered without doing it: plans, admission, imports."""
