"""Data loader ``table``: read CSV, TSV and Excel files with a header, Parquet and Arrow files."""
