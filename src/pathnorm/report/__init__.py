"""What is said about an answer: frozen records, and their text, page and figures."""

from __future__ import annotations

from pathnorm.report.comparison import ComparisonPoint
from pathnorm.report.records import CompressionRecord, Frontier, GroupRecord, SkippedGroup

__all__ = ["ComparisonPoint", "CompressionRecord", "Frontier", "GroupRecord", "SkippedGroup"]
