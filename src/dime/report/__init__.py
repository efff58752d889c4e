"""Reports in HTML: a file that opens offline, and a page that follows runs on this machine."""

from dime.report.report import serve, write_report

__all__ = ["serve", "write_report"]
