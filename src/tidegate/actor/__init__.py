"""The actor system: cells (one writer each), and who owns which."""
