"""Reports in HTML: a file that opens offline, and a live page on this machine."""

from dime.experiments.report.server import serve
from dime.experiments.report.write import write_report

__all__ = ["serve", "write_report"]
