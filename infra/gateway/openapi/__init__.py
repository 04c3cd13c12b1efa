"""The gateway's own description of what it answers, as an OpenAPI 3.1 document."""
