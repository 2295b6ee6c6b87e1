"""The text of an expression as a syntax tree, and places in the tree as columns of the text.

Invariant: whatever the text, the result is a tree of bounded size or an ExpressionError.
"""

from __future__ import annotations

import ast
import re
import warnings
from keyword import iskeyword

from tidegate.errors import ExpressionError

__all__ = ["MOST_NODES", "Source"]

MOST_CHARACTERS = 4096
MOST_NODES = 512


class Source:
    """The text of one expression."""

    def __init__(self, text: str) -> None:
        if len(text) > MOST_CHARACTERS:
            raise ExpressionError(f"longer than {MOST_CHARACTERS} characters", MOST_CHARACTERS + 1)
        if not text.strip():
            raise ExpressionError("an expression is needed", 1)
        self._text = text
        # In brackets, lines may end anywhere. To Python's parser every end of a line is one character.
        self._source = "[" + text.replace("\r\n", "\n").replace("\r", "\n") + "\n]"

    def parse(self) -> ast.expr:
        """The one expression in the text; raises ExpressionError."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(self._source, mode="eval").body
        except SyntaxError as error:
            raise self._misspelt(error) from error
        except (ValueError, MemoryError, RecursionError) as error:
            raise ExpressionError("too deeply nested, or not text that can be read", 1) from error
        if isinstance(tree, ast.ListComp):
            raise ExpressionError("loops are not part of the language", 1)
        # Only a list that spans everything is made by the brackets above.
        if not isinstance(tree, ast.List) or tree.end_lineno != self._source.count("\n") + 1 or tree.col_offset:
            raise ExpressionError("the brackets do not match", 1)
        if len(tree.elts) != 1 or self._text.rstrip().endswith(","):
            raise ExpressionError("one expression is needed; put brackets around a list", 1)
        if sum(isinstance(node, ast.expr) for node in ast.walk(tree)) > MOST_NODES:
            raise ExpressionError(f"more than {MOST_NODES} parts; split the expression", 1)
        return tree.elts[0]

    def column(self, node: ast.expr | ast.keyword) -> int:
        """The character of the text, from 1, where `node` begins."""
        lines = self._source.split("\n")[: node.lineno]
        # Offsets in the tree count bytes of UTF-8; the bracket at the start stands for counting from 1.
        return sum(len(line) + 1 for line in lines[:-1]) + len(lines[-1].encode()[: node.col_offset].decode())

    def excerpt(self, node: ast.expr) -> str:
        """The text of `node`, for people."""
        text = " ".join((ast.get_source_segment(self._source, node) or "").split())
        return text if len(text) <= 60 else f"{text[:57]}..."

    def _misspelt(self, error: SyntaxError) -> ExpressionError:
        text = self._text
        for wrong, right in (("&&", "and"), ("||", "or")):
            if wrong in text:
                return ExpressionError(f'unknown operator "{wrong}"; did you mean "{right}"?', text.index(wrong) + 1)
        for match in re.finditer(r"\.\s*(\w+)", text):
            if iskeyword(match[1]):
                return ExpressionError(f'"{match[1]}" is a word of Python; write ["{match[1]}"]', match.start(1) + 1)
        before = sum(len(line) + 1 for line in self._source.split("\n")[: (error.lineno or 1) - 1])
        brackets = error.msg.startswith(("closing parenthesis", "unmatched"))
        problem = "the brackets do not match" if brackets else error.msg
        return ExpressionError(problem, min(max(before + (error.offset or 1) - 1, 1), len(text)))
