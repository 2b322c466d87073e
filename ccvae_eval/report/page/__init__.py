"""The report of a run as one HTML file, and the table of several runs.

The page requests nothing: style, script and pictures are part of the file, and its content security policy allows
nothing else. ``templates/`` holds the templates; ``base.html`` is the frame of every page.
"""

from ccvae_eval.report.page.render import PAGE, notebook_html, page_html, runs_html, write_page

__all__ = ["PAGE", "notebook_html", "page_html", "runs_html", "write_page"]
