"""Data loader ``table``: CSV and TSV files with a header line, Parquet and Arrow files."""
