"""Names that a registered model version carries, so that every reader of the registry finds them."""

from typing import Final

CHAMPION_ALIAS: Final = "champion"
"""The version that serves; follows the ledger."""
PREVIOUS_ALIAS: Final = "previous"
"""The version that a rollback would return to; absent when there is none."""
CHALLENGER_ALIAS: Final = "challenger"
"""The version that passed its gate last and is not champion."""

DIGEST_TAG: Final = "stillhouse.digest"
"""SHA-256 of the ONNX artifact that the version was made from; set by the registry itself."""
SIGNATURE_TAG: Final = "stillhouse.signature"
"""`ModelSignature` as JSON: what a gateway needs to serve the version. Set by whoever registers."""
CARD_TAG: Final = "stillhouse.model_card"
"""Digest of the model card as JSON (`tasks.reporting.model_card.ModelCard`). Set by whoever registers."""
RUN_TAG: Final = "stillhouse.run"
"""Id of the flow run that registered the version, and of the one that first recorded a stage's run in MLflow.

It is the id by which one run is known everywhere: its record, MLflow's parent run, versions, ledger entries, routes,
and the replies of gateways."""
TRACKING_TAG: Final = "stillhouse.mlflow_run"
"""Id of the flow run's own run in MLflow, in the run's lineage and so on the versions that it registered."""
