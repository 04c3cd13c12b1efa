"""Where rows come from. The union is the one list of sources."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from tasks.datasets.csv import Csv
from tasks.datasets.digits import Digits
from tasks.datasets.npz import Npz
from tasks.datasets.source import ShippedSource
from tasks.datasets.text import Text

Source = Annotated[Digits | Npz | Csv | Text, Field(discriminator="source")]

SHIPPED: tuple[ShippedSource, ...] = (Digits(),)
"""What a fresh clone's `data/` holds."""


def materialise_shipped(folder: Path) -> None:
    """Write every shipped data set below `folder`, which stands for `data/`."""
    for source in SHIPPED:
        source.materialise(folder)
