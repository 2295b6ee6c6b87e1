"""The kinds of entities that Tidegate comes with, a file each."""
