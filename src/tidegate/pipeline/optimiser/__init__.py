"""The optimiser: measures a pipeline on records, plans a quicker one, proves it equal, and watches it once in use."""
