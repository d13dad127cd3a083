"""List every error and warning of the package with its file and line.

python scripts/messages.py [FILE OR FOLDER]...
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[1] / "charrnn"
CALLS = {"warn", "fail", "_fail", "BadParameter", "UsageError", "require_extra"}


class Message(NamedTuple):
    """A message, with `{expression}` where a value is filled in."""

    path: Path
    line: int
    kind: str
    text: str


def name_of(function: ast.expr) -> str:
    """Return the last part of a called name: `fail` in `self.fail(...)`."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def text_of(node: ast.expr) -> str:
    """Return the text of a string, an f-string or a sum of them; other expressions in braces."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(map(text_of, values))
        case ast.FormattedValue(value=value):
            return "{" + ast.unparse(value) + "}"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return text_of(left) + text_of(right)
    return "{" + ast.unparse(node) + "}"


def messages_in(path: Path) -> Iterator[Message]:
    """Yield the messages of a module."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        kind = name_of(node.func)
        if kind in CALLS or kind.endswith(("Error", "Exception")):
            yield Message(path, node.lineno, kind, text_of(node.args[0]))


def main() -> None:
    """Print the messages of the named files and folders, by default of the package."""
    for root in map(Path, sys.argv[1:] or [PACKAGE]):
        for path in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            for message in sorted(messages_in(path)):
                print(f"{message.path}:{message.line}: {message.kind}: {message.text}")


if __name__ == "__main__":
    main()
