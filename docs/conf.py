"""
The documentation site, made by Sphinx of the documents as they are: C{tox -e docs}.

The documents are written for GitHub.  What it shows in another way than Sphinx is put
right here, so that nothing in them is for one of the two alone:

  - C{docs/index.md} has lists of documents under headings: these are the site's
    contents, and its menu;
  - a C{<picture>} with a light and a dark image is two images, of which one is shown;
  - an anchor, C{<a id="r-3.2"></a>}, is a target that links are checked against.

The reference of the API is pydoctor's, which writes over C{docs/api/index.html}.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
INDEX = "docs/index"

_SECTION = re.compile(r"^## (.*)\n\n((?:- .*\n)+)", re.M)
_LISTED = re.compile(r"^- \[(.*?)\]\((.*?)\.md\)", re.M)
_PICTURE = re.compile(
    r'<picture>\s*<source .*?srcset="(?P<dark>.*?)">\s*'
    r'<img alt="(?P<alt>.*?)" src="(?P<light>.*?)">\s*</picture>',
    re.S,
)
_ANCHOR = re.compile(r'<a id="(.*?)"></a>\*\*(.*?)\*\*')

project = "aesm"
author = "The aesm authors"
version = release = re.findall(
    r'__version__ = "(.*)"', (ROOT / "aesm" / "_version.py").read_text("utf-8")
)[0]

extensions = ["myst_parser", "sphinxcontrib.mermaid"]
root_doc = INDEX
# All of the project's, since their links lead from folder to folder; one that the front
# page does not list is an error.
include_patterns = ["**.md"]
exclude_patterns = [
    ".*",
    "**/node_modules",
    "_trial_temp*",
    "build",
    "dist",
    "newsfragments",
    "site",
    "tests/vectors",
]

myst_enable_extensions = ["attrs_inline"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 4

smartquotes = False
# Its names for the diagrams of a page are else the time, in milliseconds.
mermaid_init_config = {"startOnLoad": False, "deterministicIds": True}
mermaid_fullscreen = False

html_theme = "furo"
html_title = f"{project} {release}"
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/versions.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
html_static_path = ["_static"]
templates_path = ["_templates"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False


def _asSphinxHasIt(app: Sphinx, name: str, source: list[str]) -> None:
    """Put a document's text right."""
    text = source[0]
    text = _PICTURE.sub(
        r"![\g<alt>](\g<light>){.only-light} ![\g<alt>](\g<dark>){.only-dark}", text
    )
    # The target is for links that are checked; it loses the number's dot, and so keeps
    # the anchor.
    anchored = r'[<a id="\1" href="#\1"><strong>\2</strong></a>]{id="\1"}'
    text = _ANCHOR.sub(anchored, text)
    if name == INDEX:
        text += "\n".join(_contents(text))
    source[0] = text


def _contents(text: str) -> list[str]:
    """List the documents that the front page does, for the menu."""
    lines = []
    for caption, items in _SECTION.findall(text):
        lines += ["", "```{toctree}", ":hidden:", f":caption: {caption}", ""]
        lines += [f"{title} <{path}>" for title, path in _LISTED.findall(items)]
        lines.append("```")
    return lines


def setup(app: Sphinx) -> None:
    """Have documents put right as they are read."""
    app.connect("source-read", _asSphinxHasIt)
