"""What is known about the values in events: where an address is, whether a threat feed names it, whose machine it is.

Invariant: a lookup always sees one complete table, the newest that could be loaded.
"""
