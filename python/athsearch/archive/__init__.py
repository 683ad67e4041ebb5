"""Archives on disk: segments of codes, and the catalogue of their cases."""
