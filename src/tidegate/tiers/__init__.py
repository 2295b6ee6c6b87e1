"""The read models: each takes frames of the log in exactly once and stores its position with its data."""
