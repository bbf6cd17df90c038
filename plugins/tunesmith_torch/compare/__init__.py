"""Other models beside a trained one: by name, as reference or as judge."""
