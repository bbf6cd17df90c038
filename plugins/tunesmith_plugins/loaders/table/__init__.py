"""Data loader ``table``: read CSV and TSV files with a header line, Parquet and Arrow files."""
