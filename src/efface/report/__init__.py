"""An evaluation as a page for people (`report.html`) and as JSON for programs (`report.json`)."""

from efface.report.document import document, schema, write_report
from efface.report.page import page
from efface.report.pictures import write_grid

__all__ = ["document", "page", "schema", "write_grid", "write_report"]
