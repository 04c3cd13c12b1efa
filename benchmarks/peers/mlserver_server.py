"""MLServer in one process: `parallel_workers=0`, since its worker process halves its rate."""

import asyncio
from pathlib import Path

import numpy as np
from answering import announced, free_port, load
from mlserver import MLModel, MLServer
from mlserver.settings import ModelParameters, ModelSettings, Settings
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Model(MLModel):  # type: ignore[misc]
    """The model behind the Open Inference Protocol."""

    async def load(self) -> bool:
        """Load it."""
        self.session = load(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a request that MLServer has parsed and checked."""
        tensor = payload.inputs[0]
        rows = np.array(list(tensor.data), dtype=np.float32).reshape(tensor.shape)
        values = self.session.run(None, {"input": rows})[0]
        output = ResponseOutput(name="output", shape=list(values.shape), datatype="FP32", data=values.ravel().tolist())
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main() -> None:
    """Serve until told to stop."""
    model, port = announced()
    settings = Settings(
        host="127.0.0.1", http_port=port, grpc_port=free_port(), metrics_port=free_port(), parallel_workers=0,
        debug=False,  # no log line for every request
    )  # fmt: skip
    parameters = ModelParameters(uri=str(model))
    await MLServer(settings).start([ModelSettings(name="digits", implementation=Model, parameters=parameters)])


if __name__ == "__main__":
    asyncio.run(main())
