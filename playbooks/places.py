"""Where something inside a YAML text value stands in its file: the third word of an expression, say.

YAML writes one text in several ways (plain, quoted, `|` and `>` blocks). The position within the value is translated
back to line and column of the file, so that an editor can jump there.
"""

from __future__ import annotations

from models.manifest import Document, Path


def inside(text: str, document: Document, path: Path, line: int, column: int) -> tuple[int, int]:
    """Return line and column in the file `text` of what stands at `line` and `column` (from 1) of the value at `path`.

    Where the way a value is written does not allow it (escapes, folded paragraphs), the nearest line is returned.
    """
    node = document.root
    for part in path:
        below = node.child(part)
        if below is None:
            return document.position(path)
        node = below
    lines = text.splitlines()
    written = lines[node.line - 1][node.column - 1 :] if node.line <= len(lines) else ""
    match written[:1]:
        case "|":
            return _in_block(lines, node.line, line, column)
        case ">":
            return _in_fold(lines, node.line, column)
        case '"' | "'":
            return node.line, node.column + column
        case _:
            return node.line + line - 1, node.column + column - 1 if line == 1 else column


def _in_block(lines: list[str], head: int, line: int, column: int) -> tuple[int, int]:
    return head + line, _indent(lines, head) + column


def _in_fold(lines: list[str], head: int, column: int) -> tuple[int, int]:
    """A fold joins its lines with one space each."""
    left = column
    for number in range(head, len(lines)):
        words = lines[number].strip()
        if left <= len(words) + 1:
            return number + 1, _indent(lines, number) + left
        left -= len(words) + 1
    return head, column


def _indent(lines: list[str], first: int) -> int:
    text = next((line for line in lines[first:] if line.strip()), "")
    return len(text) - len(text.lstrip())
