"""Anonymisation: what takes the place of a value, the keys that it depends on, and how it is found in free text.

Invariant: nothing here keeps, logs or names in an error what it is to hide, and no secret leaves `keys.py` as it is.
"""
