"""The transformation pipeline: raw native records in, encoded OCSF events and dead letters out.

Invariant: every record that goes in comes out exactly once.
"""
