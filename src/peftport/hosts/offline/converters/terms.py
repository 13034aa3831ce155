"""Terms of use, which a package holds as the page of a web site, as plain text for a terminal."""

from __future__ import annotations

import re
from html.parser import HTMLParser

BLOCKS = {"h1", "h2", "h3", "h4", "p", "li", "ul", "ol", "div", "section", "tr", "br"}
NOT_TEXT = {"script", "style", "nav", "button", "template", "svg"}


class _ArticleText(HTMLParser):
    """Collects the text of the article element from its first heading on, without menus and buttons."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._inside = self._begun = False
        self._skipping: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Enter the article, a heading, a block, or something that is not text. Elements named x-y are the site's."""
        self._inside = self._inside or tag == "article"
        self._begun = self._begun or (self._inside and tag == "h1")
        if self._inside and (tag in NOT_TEXT or "-" in tag):
            self._skipping.append(tag)
        elif tag in BLOCKS:
            self._put("\n\n")

    def handle_endtag(self, tag: str) -> None:
        """Leave what was entered."""
        if self._skipping and tag == self._skipping[-1]:
            self._skipping.pop()
        elif tag == "article":
            self._inside = False
        elif tag in BLOCKS:
            self._put("\n\n")

    def handle_data(self, data: str) -> None:
        """Keep the text, its spaces and line breaks as one space."""
        self._put(re.sub(r"\s+", " ", data))

    def _put(self, text: str) -> None:
        if self._inside and self._begun and not self._skipping:
            self.parts.append(text)


def readable(page: str) -> str:
    """Return the text of a page's article, a paragraph a line, with empty lines between; a page without one as it is.

    Source of the layout: the HTML standard; an article of `developers` sites starts with its `h1`.
    """
    parser = _ArticleText()
    parser.feed(page)
    paragraphs = [" ".join(each.split()) for each in "".join(parser.parts).split("\n\n")]
    return "\n\n".join(each for each in paragraphs if each) or page
