"""Run files: reading them, checking them into a plan, and their JSON schema."""
