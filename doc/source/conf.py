"""Sphinx: ``sphinx-build -W -b html doc/source doc/build/html``.  vmha must be installed: options are read from it."""

project = "vmha"
author = "vmha contributors"
copyright = "vmha contributors, Apache-2.0"  # noqa: A001

extensions = ["oslo_config.sphinxext"]
root_doc = "index"
exclude_patterns: list[str] = []
nitpicky = False

html_theme = "alabaster"
html_theme_options = {"description": "Virtual-machine high availability for OpenStack", "page_width": "1100px"}
html_show_sourcelink = False

man_pages = [("cli", "vmha", "virtual-machine high availability for OpenStack", [author], 8)]
