"""What a run shows in TensorBoard; the library for it comes with the extra `tensorboard`."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lae_jax.errors import InputError
from lae_jax.figures import dynamics
from lae_jax.training.loop import History

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter


class Board:
    """The event files in one folder. Raises InputError where tensorboardX is not installed."""

    def __init__(self, folder: Path) -> None:
        try:
            import tensorboardX
        except ImportError:
            raise InputError("tensorboard: needs tensorboardX: pip install -e '.[tensorboard]'") from None
        self._make, self._folder, self._writer = tensorboardX.SummaryWriter, folder, None

    def _from(self, step: int) -> "SummaryWriter":
        """The writer; events from `step` on that an interrupted run left are struck out when it starts."""
        if self._writer is None:
            self._writer = self._make(str(self._folder), purge_step=step)
        return self._writer

    def scalars(self, history: History) -> None:
        """The loss and every metric of these rows."""
        steps = history["step"].tolist()
        for name, values in history.items():
            for step, value in zip(steps, values.tolist(), strict=True):
                if name != "step":
                    self._from(steps[0]).add_scalar(name, value, step)

    def images(self, tag: str, decoder: np.ndarray, image_shape: tuple[int, int], step: int) -> None:
        """The columns of W2 (m, k) as images, in one picture."""
        picture = (dynamics.image_grid(decoder, image_shape, 10) + 1) / 2
        self._from(step).add_image(tag, picture, step, dataformats="HW")

    def close(self) -> None:
        """Have everything on disk."""
        if self._writer is not None:
            self._writer.close()
