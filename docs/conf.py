"""The site: ``make docs`` builds it from the Markdown of this folder, the notebooks, and the docstrings."""

import re
import sys
from pathlib import Path
from typing import TypeVar

from sphinx import addnodes

HERE = Path(__file__).parent
SOURCE = HERE.parent / "src"
sys.path.insert(0, str(SOURCE))

project = "astromodal"
author = "the authors of astromodal"
project_copyright = author
release = version = re.search(r'^__version__ = "(.+)"$', (SOURCE / "astromodal/__init__.py").read_text(), re.M)[1]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "astromodal"
html_static_path = ["_static"]
html_css_files = ["site.css"]

# Markdown as GitHub reads it: titles are anchors, and a link to a file outside of docs/ is a download
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks keep the outputs that they were saved with; tests/test_docs.py executes them

autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "ignore-module-all": True,
}  # where they are defined
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
nitpicky = True


def pages_of_packages() -> list[str]:
    """A page for each package of the program, with the docstrings of all its modules; returns their names."""
    folder, root = HERE / "reference/api", SOURCE / "astromodal"
    folder.mkdir(exist_ok=True)
    pages = {path.parent.name: sorted(path.parent.rglob("*.py")) for path in sorted(root.glob("*/__init__.py"))}
    pages = {"astromodal": [root / "__init__.py", root / "errors.py"], **pages}
    for page, paths in pages.items():
        text = f"{page}\n{'=' * 40}\n\n"
        for path in paths:
            name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
            text += "" if path == paths[0] else f"{name}\n{'-' * len(name)}\n\n"
            text += f".. automodule:: {name}\n\n"
        file = folder / f"{page}.rst"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
    return list(pages)


def toctrees(app, name: str, source: list[str]) -> None:
    """The front page's lists of links are what the site's menu shows: a hidden toctree after each of them."""
    source[0] = re.sub(r"\]\((\.\./)+README\.md\)", "](/index.md)", source[0])  # the site's README is its front page
    if name == "index":
        title, *sections = re.split(r"^## ", source[0], flags=re.MULTILINE)
        for number, section in enumerate(sections):
            links = re.findall(r"^- \[.+?\]\((.+?)\.(?:md|rst|ipynb)\)", section, re.MULTILINE)
            caption = section.splitlines()[0]
            tree = "\n".join(links)
            sections[number] = f"{section}\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{tree}\n```\n\n"
        source[0] = "## ".join([title, *sections])
    if name == "reference/api":
        source[0] += (
            "\n```{toctree}\n:maxdepth: 1\n\n" + "\n".join(f"api/{name}" for name in pages_of_packages()) + "\n```\n"
        )


def plain_names_of_others(app, doctree) -> None:
    """``np.ndarray`` in a signature stays text: its page is on the network, and looking for it here takes minutes.

    So does a type variable, which has no page.
    """
    for name in list(doctree.findall(addnodes.pending_xref)):
        module, _, attribute = name["reftarget"].rpartition(".")
        ours = name["reftarget"].startswith(("astromodal", "."))
        variable = isinstance(getattr(sys.modules.get(module), attribute, None), TypeVar)
        if name.get("refdomain") == "py" and (variable or not ours):
            name.replace_self(name.children)


def setup(app) -> None:
    pages_of_packages()
    app.connect("source-read", toctrees)
    app.connect("doctree-read", plain_names_of_others)
