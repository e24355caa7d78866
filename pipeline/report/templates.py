"""HTML from templates, which lie beside the module that fills them in; every value is escaped where it is put in."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from pipeline.report.drawing import clock


def template(name: str) -> Template:
    """The template of that path below the package. ``.module`` has its macros, which Python may call as well."""
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent.parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"clock": clock, "percent": percent, "points": points}
    return environment


def percent(share: float, digits: int = 1) -> str:
    """A share of 0 to 1 in percent."""
    return f"{100 * share:.{digits}f}\u00a0%"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign (a minus, not a hyphen)."""
    return f"{100 * difference:+.1f} points".replace("-", "\u2212")


def filled_in(name: str, macro: str, **values: Any) -> str:
    """HTML of one of a template's macros."""
    html: str = getattr(template(name).module, macro)(**values)
    return html


class Section(NamedTuple):
    """A part of a page that its table of contents leads to."""

    name: str
    title: str
    html: str


def section(name: str, title: str, template_name: str, **values: Any) -> Section:
    """A section by the macro of the template that has its name, up to a hyphen."""
    return Section(name, title, filled_in(template_name, name.partition("-")[0], **values))
