"""The protocols that targets speak, each in a file of its own."""
