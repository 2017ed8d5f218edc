"""What stands in a report.html: its elements, its figures and what its script reads."""

import base64
import json
import zlib
from html.parser import HTMLParser


class PageReader(HTMLParser):
    """A page as a parser reads it: `elements` (tag, attributes), `figures` by name, `texts` of scripts and styles."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.figures, self.texts, self.words = [], {}, {}, []
        self._open = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if "data-figure" in attributes:
            value = attributes["data-value"]
            self.figures[attributes["data-figure"]] = float(value) if value else None
        if tag in ("script", "style"):
            self._open = attributes.get("id", tag)

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._open = None

    def handle_data(self, data):
        if self._open:
            self.texts[self._open] = self.texts.get(self._open, "") + data
        else:
            self.words.append(data)

    @property
    def content(self):
        """What the page's script reads."""
        return json.loads(zlib.decompress(base64.b64decode(self.texts["data"])))

    @property
    def policy(self):
        """The Content-Security-Policy: directives by name."""
        [found] = [a["content"] for tag, a in self.elements if a.get("http-equiv") == "Content-Security-Policy"]
        return {part.split()[0]: part.split()[1:] for part in found.split(";")}


def read_page(path):
    """The page in a file."""
    return PageReader(path.read_text(encoding="utf-8"))
