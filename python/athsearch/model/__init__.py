"""Networks, their losses and their weights files."""
