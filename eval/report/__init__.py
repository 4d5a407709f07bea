"""One page about a run: what it learned, what it kept, how it was trained, and every graded answer.

The page is a single HTML file that needs no network: it can be mailed, and opens on a phone.
"""

from eval.report.build import Report, build_report

__all__ = ["Report", "build_report"]
