"""Data loader ``table``: CSV, TSV and Excel files with a header line, Parquet and Arrow files."""
