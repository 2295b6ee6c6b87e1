"""Edge actors: each decodes what a protocol brings, calls, and encodes the answer."""
