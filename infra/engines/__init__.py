"""The engines as processes of one machine: what they are, how they are watched, and how they end."""
