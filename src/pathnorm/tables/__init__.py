"""Columns of numbers out of files: CSV and its kin, and Parquet, read in batches."""

from __future__ import annotations

from pathnorm.tables.frame import Column, Frame, read_frame
from pathnorm.tables.read import Table, read_batches, read_table

__all__ = ["Column", "Frame", "Table", "read_batches", "read_frame", "read_table"]
