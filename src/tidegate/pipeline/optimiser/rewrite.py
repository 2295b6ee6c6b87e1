"""A pipeline's text with its stages in another order, so that comments stay with what they are about.

Invariant: what comes out says exactly what was planned: it is read again and compared, and given up where it does not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec.structs import replace

from tidegate.errors import RuleError
from tidegate.pipeline.definition import Definition, Stage, Transform, parse_definition

__all__ = ["rewrite"]

_HEADER = re.compile(r"^\s*(?P<brackets>\[{1,2})\s*(?P<name>[A-Za-z0-9_-]+)(?P<more>[^\[\]]*)\]{1,2}\s*(#.*)?$")


def rewrite(definition: Definition, groups: Sequence[Sequence[int]], changes: Sequence[str]) -> Definition | None:
    """`definition` with its stages as `groups` of indexes says, those of one group as one; `changes` tell why.

    None for a text that is laid out so that this cannot be done, as with stages or operations in one line.
    """
    blocks = _blocks(definition.text)
    ours = [lines for is_stage, lines in blocks if is_stage]
    if len(ours) != len(definition.file.stage):
        return None
    texts = iter(["\n".join(_joined([ours[index] for index in group])) for group in groups])
    parts = [f"# Made of version {definition.version}, to do the same in less time:"]
    parts = ["\n".join([*parts, *(f"# - {change}" for change in changes)])]
    parts += [next(texts, "") if is_stage else "\n".join(lines) for is_stage, lines in blocks]
    text = "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"
    try:
        made = parse_definition(text, definition.path)
    except RuleError:
        return None
    wanted = [_merged([definition.file.stage[index] for index in group]) for group in groups]
    return made if made.file == replace(definition.file, stage=wanted) else None


def _merged(stages: Sequence[Stage]) -> Stage:
    first, *others = stages
    if not others or not isinstance(first, Transform):
        return first
    added = [operation for other in others if isinstance(other, Transform) for operation in other.operations]
    return replace(first, operations=[*first.operations, *added])


def _blocks(text: str) -> list[tuple[bool, list[str]]]:
    """The lines that make up each stage, and those between; comments go with the line that they stand above."""
    blocks: list[tuple[bool, list[str]]] = [(False, [])]
    for line in text.splitlines():
        header = _HEADER.match(line)
        begins = header is not None and header["name"] == "stage" and not header["more"].strip()
        if header is not None and (begins or (blocks[-1][0] and header["name"] != "stage")):
            blocks.append((begins, _comments(blocks[-1][1])))
        blocks[-1][1].append(line)
    return blocks


def _comments(lines: list[str]) -> list[str]:
    """Takes the comments at the end off `lines`."""
    at = len(lines)
    while at and lines[at - 1].lstrip().startswith("#"):
        at -= 1
    taken, lines[at:] = lines[at:], []
    return taken


def _joined(stages: Sequence[list[str]]) -> list[str]:
    """The lines of the first stage with the operations, and the comments, of the others."""
    lines, *others = stages
    lines = "\n".join(lines).rstrip("\n").split("\n")
    for other in others:
        keep = False
        for line in other:
            header = _HEADER.match(line)
            if header is not None:
                keep = header["more"].strip().startswith(".operations")
            if keep or line.lstrip().startswith("#"):
                lines.append(line)
    return lines
