"""Doors to the outside: each decodes a request, puts it to the bus or to the queries, and encodes the answer."""
