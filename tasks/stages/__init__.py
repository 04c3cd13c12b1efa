"""The work behind each cached task: load by digest, call the algorithm, store what came out."""
