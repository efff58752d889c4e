"""Reports in HTML: a file that opens offline, and a live page on this machine."""

from dime.report.server import serve
from dime.report.write import write_report

__all__ = ["serve", "write_report"]
