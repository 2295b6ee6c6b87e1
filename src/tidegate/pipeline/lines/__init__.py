"""Parsers of log lines: text in, a native record (a dict) out, before the mapping rules apply."""
