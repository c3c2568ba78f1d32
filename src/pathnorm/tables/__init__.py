"""Columns of numbers out of files: CSV and its kin, and Parquet, read in batches."""

from __future__ import annotations

from pathnorm.tables.read import Table, read_batches, read_table

__all__ = ["Table", "read_batches", "read_table"]
