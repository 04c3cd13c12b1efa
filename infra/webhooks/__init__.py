"""The receiver of MLflow's webhooks: a signed event about a model has its aliases and route reconciled at once."""
