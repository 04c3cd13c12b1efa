"""The serving process: routes live requests to the champion or the challenger and records what was answered."""
