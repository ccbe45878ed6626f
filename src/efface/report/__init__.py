"""An evaluation as a page that a person would rather look at than read."""

from efface.report.document import document as document
from efface.report.document import schema as schema
from efface.report.document import write_report as write_report
from efface.report.page import page as page
from efface.report.pictures import grid as grid
