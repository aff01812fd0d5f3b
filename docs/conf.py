"""The documentation site. ``sphinx-build -W docs docs/_build`` makes it; scripts/lint does."""

from __future__ import annotations

import sys
from pathlib import Path

from fc_kernel import __version__

sys.path.insert(0, str(Path(__file__).parent))

project = "fc_kernel"
author = "the fc_kernel developers"
copyright = author  # noqa: A001 - Sphinx's name
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generated"]
exclude_patterns = ["_build", "generated"]
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 4
nitpicky = True
#: Names of other projects, which are not looked up: the site is built without a network.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!fc_kernel).*"),
    # Annotations name modules that are not described here; readers of the API need their names, not their pages.
    (r"py:.*", r"fc_kernel\.(?!errors\b|execute\b|VmSpec\b).*"),
]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True

html_theme = "pydata_sphinx_theme"
html_title = "fc_kernel"
html_static_path = ["_static"]
html_css_files = ["site.css"]
#: Pages that are no part of a section have nothing to show beside them.
html_sidebars = {name: [] for name in ("index", "security", "architecture", "benchmarks", "decisions", "changelog")}
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "fc_kernel", "image_light": "_static/logo.svg", "image_dark": "_static/logo.svg"},
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "show_toc_level": 2,
    "show_nav_level": 2,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
