"""The templates of pages; what they are given is escaped unless it is marked as markup."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def template(name: str) -> Template:
    """Return the template of a file."""
    return Environment(
        loader=PackageLoader("peftport.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)


def template_text(name: str) -> str:
    """Return the text of a file beside the templates, such as the style sheet of every page."""
    return (files("peftport.report") / "templates" / name).read_text(encoding="utf-8")
