"""How the site is built: `python -m sphinx -W docs docs/_build/html`."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from charrnn.cli.main import _add_commands, cli  # noqa: E402
from charrnn.config.merge import flatten  # noqa: E402
from charrnn.config.schema import Config, fields, key_of, tasks_with  # noqa: E402

_add_commands()  # So that sphinx-click finds them in the group.

project = "charrnn"
author = "the charrnn authors"
project_copyright = author
try:
    release = metadata.version("charrnn-trainer")
except metadata.PackageNotFoundError:
    release = ""

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_click",
]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "linkify", "colon_fence"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
suppress_warnings = ["config.cache"]
highlight_language = "text"

# Docstrings put names in single backticks, as Markdown does.
default_role = "code"
smartquotes = False  # Options begin with two hyphens.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = "charrnn"
html_static_path = ["_static"]
html_css_files = ["charrnn.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5f8b", "color-brand-content": "#1f5f8b"},
    "dark_css_variables": {"color-brand-primary": "#7fb8e0", "color-brand-content": "#7fb8e0"},
}


class Source(SphinxDirective):
    """The present source of `package.module:Name`, with its file and line.

    `body` leaves out its docstring. A name that is not found fails the build.
    """

    required_arguments = 1
    option_spec = {"body": directives.flag}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """Return a block of code, and a line that names its file."""
        try:
            thing = resolve_name(self.arguments[0])
        except (ImportError, AttributeError) as error:
            raise self.error(f"no source for {self.arguments[0]}: {error}") from error
        code = textwrap.dedent(inspect.getsource(thing))
        if "body" in self.options:
            code = _without_docstring(code)
        block = nodes.literal_block(code, code, language="python")
        path = Path(inspect.getsourcefile(thing) or "")
        self.env.note_dependency(str(path))
        place = f"{path.relative_to(ROOT)}, line {inspect.getsourcelines(thing)[1]}"
        return [block, nodes.paragraph(place, place, classes=["source-place"])]


def _without_docstring(code: str) -> str:
    body = ast.parse(code).body[0].body  # type: ignore[attr-defined]
    lines = code.splitlines()
    if ast.get_docstring(ast.parse(code).body[0]) is not None:  # type: ignore[arg-type]
        del lines[body[0].lineno - 1 : body[0].end_lineno]
    return "\n".join(lines)


class Drawing(SphinxDirective):
    """A drawing from `pictures/`, inlined so that it has the colours of the page."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return a figure; the directive's content is its caption."""
        path = Path(self.env.srcdir) / "pictures" / f"{self.arguments[0]}.svg"
        self.env.note_dependency(str(path))
        caption = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, caption)  # type: ignore[arg-type]
        start = f'<figure class="drawing">{path.read_text("utf-8")}<figcaption>'
        end = nodes.raw("", "</figcaption></figure>", format="html")
        return [nodes.raw("", start, format="html"), *caption.children, end]


class Commands(SphinxDirective):
    """Every command, in the order in which `charrnn --help` lists them."""

    def run(self) -> list[nodes.Node]:
        """Return what sphinx-click generates for the group of commands."""
        text = ["```{eval-rst}", ".. click:: charrnn.cli.main:cli", "   :prog: charrnn"]
        text += ["   :nested: full", f"   :commands: {','.join(cli.commands)}", "```"]
        return self.parse_text_to_nodes("\n".join(text), allow_section_headings=True)


def _examples_as_code(app: Sphinx, ctx: Any, lines: list[str]) -> None:
    """Show paragraphs that click does not rewrap (`\\b`: examples, exit codes) as code."""
    text, lines[:] = [*lines], []
    for line in text:
        kept = line.removeprefix("| ")
        if kept == line or not kept.startswith(" "):
            lines += [kept] if kept == line else [f"{kept.rstrip(':')}::", ""]
        else:
            lines.append(f"   {kept.strip()}")
    lines.append("")


class PublicNames(SphinxDirective):
    """The public names in sections, each a line `Title: name name`; each name must occur once."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return a section for each line, documented by autodoc."""
        import charrnn

        listed, text = [], []
        for line in self.content:
            title, _, names = line.partition(": ")
            listed += names.split()
            text += [title, "-" * len(title), ""]
            for name in names.split():
                is_class = isinstance(getattr(charrnn, name), type)
                text += [f".. auto{'class' if is_class else 'function'}:: charrnn.{name}"]
                text += ["   :members:", "   :exclude-members: forward", ""] if is_class else [""]
        if sorted(listed) != sorted(charrnn.__all__):
            odd = set(listed) ^ set(charrnn.__all__)
            raise self.error(f"reference/python.md and charrnn.__all__ differ in: {sorted(odd)}")
        return self.parse_text_to_nodes(
            "\n".join(["```{eval-rst}", *text, "```"]), allow_section_headings=True
        )


class ConfigurationKeys(SphinxDirective):
    """Every key of a section of the schema: its name, type, default and explanation."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a definition list, parsed as Markdown."""
        section, usual = self.arguments[0], flatten(Config().model_dump())
        schema = Config.model_json_schema()
        lines = []
        for key, field in fields().items():
            if key.rpartition(".")[0] == ("" if section == "top" else section):
                facts = [_kind(key, schema), f"default `{_shown(usual[key])}`"]
                level, tasks = key_of(field).level, tasks_with(key)
                facts += [level] if level != "everyday" else []
                facts += [f"only {', '.join(f'`{task}`' for task in tasks)}"] if tasks else []
                text = " ".join((field.description or "").split())
                lines += [f"`{key}`", f": {'; '.join(facts)}\\", f"  {text}", ""]
        node = nodes.container()
        self.state.nested_parse(lines, 0, node)  # type: ignore[arg-type]
        return list(node.children)


def _shown(value: Any) -> str:
    """Format a default as in YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(list(value) if isinstance(value, tuple) else value)


def _kind(key: str, schema: dict[str, Any]) -> str:
    """Describe the type of a key in words, from the JSON schema."""
    part = schema
    for name in key.split("."):
        part = _resolved(part["properties"][name], schema)
    return _in_words(part, schema)


def _resolved(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        part = part | schema["$defs"][part["$ref"].rsplit("/", 1)[-1]]
        del part["$ref"]
    return part


def _in_words(part: dict[str, Any], schema: dict[str, Any]) -> str:
    part = _resolved(part, schema)
    if "anyOf" in part:
        return " or ".join(dict.fromkeys(_in_words(each, schema) for each in part["anyOf"]))
    if "enum" in part:
        return " | ".join(f"`{value}`" for value in part["enum"])
    if "const" in part:
        return f"`{part['const']}`"
    if part.get("type") == "array":
        kinds = part.get("prefixItems") or [part.get("items", {})]
        return f"list of {_in_words(kinds[0], schema)}"
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "`true` | `false`",
        "null": "`null`",
        "object": "mapping",
    }[part["type"]]
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {part[name]:g}" for name, sign in bounds.items() if name in part]
    return " ".join([words, ", ".join(limits)]).strip()


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives that generate text from the package."""
    app.add_directive("source", Source)
    app.add_directive("drawing", Drawing)
    app.add_directive("commands", Commands)
    for part in ("description", "epilog"):
        app.connect(f"sphinx-click-process-{part}", _examples_as_code)
    app.add_directive("public-names", PublicNames)
    app.add_directive("configuration-keys", ConfigurationKeys)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
