"""Count what can be counted of the code's order, for one checkout or several side by side.

    python tools/measure_code.py . ../before

Code lines are lines without docstrings, comments and blanks. A public name is a function, class or constant at the top
of a module of the package whose name has no leading underscore; it is used elsewhere if another file of the package,
the tools, the tests or the examples has the word.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

_QUESTION = re.compile(r"(What|Whether|As|How|Whatever|Whoever|Which|Where|When|Who|Why)\b")
_SILENT = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING),
    tokenize.ENDMARKER,
}
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A file of Python, read."""

    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax."""
        return ast.parse(self.text)

    @cached_property
    def words(self) -> frozenset[str]:
        """Every word in it, of code, comments and texts."""
        return frozenset(re.findall(r"\w+", self.text))

    @property
    def docstrings(self) -> Iterator[ast.Constant]:
        """Of the module, its classes and functions, and the texts under its fields."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Module | ast.ClassDef | _Function):
                for child in node.body:
                    if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
                        continue
                    if isinstance(child.value.value, str):
                        yield child.value

    @property
    def num_code_lines(self) -> int:
        """Lines that are neither docstring, comment nor blank."""
        silent = {line for text in self.docstrings for line in range(text.lineno, (text.end_lineno or 0) + 1)}
        lines: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type not in _SILENT:
                lines.update(range(token.start[0], token.end[0] + 1))
        return len(lines - silent)

    @property
    def functions(self) -> Iterator[_Function]:
        """All, methods too."""
        return (node for node in ast.walk(self.tree) if isinstance(node, _Function))

    @property
    def public_names(self) -> Iterator[str]:
        """Functions, classes and constants at its top."""
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef | _Function):
                names = [node.name]
            elif isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names = [node.target.id]
            else:
                continue
            yield from (name for name in names if not name.startswith("_"))


def modules(folder: Path) -> list[Module]:
    """The Python files below a folder."""
    return [Module(path, path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py"))]


def figures(root: Path) -> dict[str, str]:
    """Name of a figure to its value, for the checkout at ``root``."""
    parts = {name: modules(root / name) for name in ("pipeline", "tools", "tests", "examples")}
    package = parts["pipeline"]
    found = {}
    for name, members in parts.items():
        num_lines = sum(module.text.count("\n") for module in members)
        found[f"{name}: lines, code lines, files"] = (
            f"{num_lines:,}, {sum(module.num_code_lines for module in members):,}, {len(members)}"
        )
    classes = Counter(node.name for module in package for node in module.tree.body if isinstance(node, ast.ClassDef))
    twice = sorted(name for name, count in classes.items() if count > 1 and not name.startswith("_"))
    texts = [str(text.value) for module in package for text in module.docstrings]
    num_questions = sum(bool(_QUESTION.match(text)) for text in texts)
    lengths = [(node.end_lineno or 0) - node.lineno + 1 for module in package for node in module.functions]
    found |= {
        "public names": f"{sum(len(list(module.public_names)) for module in package):,}",
        "public names used in one file alone": str(len(names_used_alone(root))),
        "public classes of one name": f"{len(twice)} {' '.join(twice)}".strip(),
        "files that know of look-back": _num_files(package, r"lookback|num_context"),
        "files that turn frames into features": _num_files(package, r"recognizer\.embed\("),
        "files with an atomic writer": _num_files(package, r"os\.(replace|rename)\("),
        "docstrings that begin with a question word": f"{num_questions} of {len(texts):,}",
        "median and longest function, lines": f"{median(lengths):g}, {max(lengths)}",
    }
    return found


def _num_files(members: list[Module], pattern: str) -> str:
    return str(sum(bool(re.search(pattern, module.text)) for module in members))


def names_used_alone(root: Path) -> list[str]:
    """Public names of the package that no other file has, as ``file: name``."""
    folders = [modules(root / name) for name in ("pipeline", "tools", "tests", "examples")]
    elsewhere = Counter(word for members in folders for module in members for word in module.words)
    return [
        f"{module.path.relative_to(root)}: {name}"
        for module in folders[0]
        for name in module.public_names
        if elsewhere[name] < 2
    ]


def main() -> None:
    """Print a table with a column for each checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", type=Path, help="folders of checkouts")
    parser.add_argument("--names", action="store_true", help="list the public names that are used in one file alone")
    arguments = parser.parse_args()
    columns = [figures(root) for root in arguments.roots]
    print("| | " + " | ".join(root.resolve().name for root in arguments.roots) + " |")
    print("|---|" + "---|" * len(columns))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(column[name] for column in columns) + " |")
    if arguments.names:
        print("\n".join(names_used_alone(arguments.roots[0])))


if __name__ == "__main__":
    main()
