"""One package at a time: pure functions, values, one process."""
