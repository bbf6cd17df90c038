"""Read run files, check them into a plan, and generate their JSON schema."""
