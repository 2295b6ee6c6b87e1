"""Avro, Protobuf and Parquet for the shapes that travel outside: the envelope and the OCSF event.

All three follow from the Structs by one description (`shape.py`), so they hold the same fields and the same limits.
"""
