"""The documentation site: Markdown pages and a reference from docstrings. `make docs` builds it."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

import yfkernels

ROOT = Path(__file__).resolve().parents[1]
SECTION = re.compile(r"(Args|Attributes|Example|Raises|Returns|Source|Yields):")

project = "yfkernels"
author = "the yfkernels authors"
copyright = author
release = version = yfkernels.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]

# ---- pages

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

# ---- reference

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
default_role = "py:obj"  # single backquotes link where they name something public
napoleon_use_ivar = True  # fields of named tuples would be described twice
napoleon_use_rtype = False
python_maximum_signature_line_length = 80
autodoc_mock_imports = ["ignite", "lightning", "timm", "transformers"]

# ---- looks

html_theme = "furo"
html_title = f"yfkernels {release}"
html_theme_options = {"navigation_with_keys": True}
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]

# ---- links out of this folder

INCLUDED = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def name_what_is_not_here(app: Sphinx, page: str, source: list[str]) -> None:
    """Links to notes and folders of the repository become their paths: they are not on the site.

    Files that are no pages, CSV say, are downloads; those MyST copies by itself.
    """
    folder = Path(app.srcdir, page).parent

    def rewritten(match: re.Match[str]) -> str:
        words, (link, hash_, heading) = match[1], match[2].partition("#")
        target = (folder / link).resolve()
        if target.is_relative_to(app.srcdir) or not (target.is_dir() or target.suffix == ".md"):
            return match[0]
        path = str(target.relative_to(ROOT))
        if path in INCLUDED:
            return f"[{words}](/{INCLUDED[path]}{hash_}{heading})"
        return f"{words} (`{path}`)"

    source[0] = re.sub(r"\[([^\]]+)\]\((\.\./[^)\s]+)\)", rewritten, source[0])


# ---- docstrings


def set_formulas(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Makes indented blocks before a docstring's first section literal: they are formulas."""
    found: list[str] = []
    within = False
    for number, line in enumerate(lines):
        if SECTION.match(line):
            found += lines[number:]
            break
        if line:
            indented = line.startswith("    ")
            if indented and not within and found and not found[-1]:
                found += ["::", ""]
            within = indented
        found.append(line)
    lines[:] = found


def setup(app: Sphinx) -> None:
    app.connect("source-read", name_what_is_not_here)
    app.connect("autodoc-process-docstring", set_formulas, priority=100)  # before napoleon
