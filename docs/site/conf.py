"""Settings of the site; ``build.py`` beside this file gathers its pages and calls Sphinx."""

from typing import Any

import jrobust

project = "jrobust"
author = "the authors of jrobust"
version = release = jrobust.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
html_theme = "furo"
html_title = "jrobust"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
pygments_style, pygments_dark_style = "friendly", "monokai"

default_role = "code"  # `name` in a docstring is code
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Guarantee", "Deviations", "Layout", "Statement"]

nb_execution_mode = "off"  # executed where they are written; .ci/run runs them again
myst_heading_anchors = 4
suppress_warnings = ["myst.header", "config.cache"]


def setup(app: Any) -> None:
    """Arrays by the name that users know."""

    def short(app: Any, what: str, name: str, obj: Any, options: Any, said: str | None, returned: str | None) -> Any:
        return tuple(part and part.replace("jaxlib._jax.Array", "Array") for part in (said, returned))

    app.connect("autodoc-process-signature", short)
