"""A run as people see it: one HTML page, pictures in SVG, and Prefect artifacts."""
