"""Reports in HTML: a file that opens offline, and a page that follows runs on this machine."""

from dime.report.report import write_report
from dime.report.server import serve

__all__ = ["serve", "write_report"]
