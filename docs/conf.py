"""The site: ``make docs`` builds it from the Markdown of this folder, the notebooks, and the docstrings."""

import re
import sys
from pathlib import Path

from sphinx import addnodes

HERE = Path(__file__).parent
SOURCE = HERE.parent / "src"
sys.path.insert(0, str(SOURCE))

project = "astromodal"
author = "the authors of astromodal"
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
    folder = HERE / "reference/api"
    folder.mkdir(exist_ok=True)
    packages = sorted(path.parent for path in (SOURCE / "astromodal").glob("*/__init__.py"))
    for package in packages:
        modules = [path.with_suffix("") for path in sorted(package.rglob("*.py"))]
        names = [".".join(path.relative_to(SOURCE).parts).removesuffix(".__init__") for path in modules]
        text = f"{package.name}\n{'=' * 40}\n\n.. py:currentmodule:: astromodal\n\n"
        for name in names:
            title = "" if name == names[0] else f"{name}\n{'-' * len(name)}\n\n"
            text += f"{title}.. automodule:: {name}\n\n"
        page = folder / f"{package.name}.rst"
        if not page.exists() or page.read_text() != text:
            page.write_text(text)
    return [package.name for package in packages]


def toctrees(app, name: str, source: list[str]) -> None:
    """The front page's lists of links are what the site's menu shows: a hidden toctree after each of them."""
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
    """``np.ndarray`` in a signature stays text: its page is on the network, and looking for it here takes minutes."""
    for name in list(doctree.findall(addnodes.pending_xref)):
        if name.get("refdomain") == "py" and not name["reftarget"].startswith(("astromodal", ".")):
            name.replace_self(name.children)


def setup(app) -> None:
    pages_of_packages()
    app.connect("source-read", toctrees)
    app.connect("doctree-read", plain_names_of_others)
