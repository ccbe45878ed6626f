"""CiE, concept-irrelevant representations: decorrelates the concept's contribution to the prediction from the original.

    r(x_t) = e(x_t, c) - e(x_t, ''),    loss = mean r(x_t) r0(x_t) + reg_beta / P sum_p |theta_p - theta0_p|_1

over the P parameters of cross-attention (in a transformer, of all attention), with r0 and theta0 of the base, by Adam,
until a running mean of the first term is below `threshold` (see `correlation`). The gradient flows through both
predictions of r.

Paper: https://arxiv.org/abs/2402.05947 (SepME; the method is its concept-irrelevant representations, and a variant of
SRS-ME). Reference: https://github.com/Dlut-lab-zmn/SepCE4MU, CiE.py (960385a), which has no licence; this is written
from the equations. The defaults are those of the script. Its README uses threshold 0 and reg_beta 3e-5 for a style, the
paper lr 1e-5. Deviation: the images of the concept stay latents here; the scripts generate 1000 images, decode them,
and use each once, as `datapath` does.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping

import torch
from pydantic import Field
from torch import Tensor

from efface.edits.solution import Solution
from efface.methods.base import Latents, Method, Pictures, SnapshotWriter
from efface.methods.trained.correlation import CorrelationConfig, Momentum, NoisyImages
from efface.methods.trained.denoiser_parameters import trained_parameters
from efface.methods.training.objective import Batch, Losses, Objective
from efface.methods.training.run import combine_components, train_concepts
from efface.methods.training.weights import Copies, Networks
from efface.models.model import Model
from efface.progress import RunContext
from efface.request.record import Request


class CieConfig(CorrelationConfig):
    """CiE's settings, by the reference's names; see `CorrelationConfig` for the rest.

    Attributes:
        lr: Adam's learning rate.
        threshold: The value of the running mean below which the training stops.
        reg_beta: The weight of the distance to the base.
    """

    lr: float = Field(default=1e-6, gt=0, lt=1e38)
    threshold: float = 5e-5
    reg_beta: float = Field(default=1e-5, ge=0)


class Cie(Objective):
    """The objective of CiE for one concept.

    Args:
        model: The base.
        request: The request with the concept.
        config: The settings.
        images: The noisy images of the concept.
    """

    def __init__(self, model: Model, request: Request, config: CieConfig, images: NoisyImages) -> None:
        embedded = model.embed([*request.names, ""], clip_skip=request.clip_skip)
        self._texts = model.denoiser_text(embedded).to(model.device)  # (2, R, d)
        self.weights = self._trained = Copies(model.denoiser, trained_parameters(model.denoiser, "esd-x"))
        self.iterations, self.keeps_gradients, self.data = images.iterations, config.accumulate_grads, images.data
        self._config, self._networks, self._images = config, Networks(model, self.weights), images
        self._momentum = Momentum(1, config.threshold)

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.weights.parameters(), lr=self._config.lr)

    def batch(self, slot: int, step: int) -> Batch:
        x, t = self._images.noisy(slot, step)
        return {"x": x[0], "t": t, "truth": self._representation(self._networks.teacher, x[0], t)}

    def loss(self, batch: Batch) -> Losses:
        representation = self._representation(self._networks.student, batch["x"], batch["t"])
        correlation = (representation * batch["truth"]).mean()
        distance = torch.stack([change.abs().sum() for change in self._trained.changes()]).mean()
        return {"loss": correlation + self._config.reg_beta * distance, "correlation": correlation}

    def finished(self, step: int, losses: Mapping[str, float]) -> bool:
        return bool(self._momentum.falls(step, [losses["correlation"]]))

    def state(self) -> dict[str, Tensor]:
        return {**self._images.state(), "momentum": self._momentum.values}

    def restore(self, tensors: Mapping[str, Tensor], slots: Container[int]) -> None:
        self._images.restore(tensors)
        self._momentum.values = tensors["momentum"]

    def _representation(self, predict: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, t: Tensor) -> Tensor:
        """The representation r of x (b, C, h, w) at timesteps t (b,), (b, C, h, w)."""
        both = predict(torch.cat([x, x]), torch.cat([t, t]), self._texts.repeat_interleave(len(x), 0))
        concept, null = both.chunk(2)
        return concept - null


def erase(
    model: Model,
    request: Request,
    config: CieConfig,
    latents: Latents,
    pictures: Pictures,
    context: RunContext,
    write_snapshot: SnapshotWriter,
) -> Solution:
    """Train each concept, starting from the base.

    Args:
        model: The model.
        request: The concepts.
        config: The settings.
        latents: Samples the latents of the images.
        pictures: Reads the images of a folder.
        context: The folder for checkpoints, and the progress callback.
        write_snapshot: Writes erasers of intermediate steps.
    """

    def objective(part: Request) -> Cie:
        return Cie(model, part, config, NoisyImages(model, part, config, latents, pictures, context.progress))

    return train_concepts(model, request, config, context, write_snapshot, objective)


ENTRY = Method(
    name="cie",
    summary="Trains cross-attention until the concept's contribution no longer correlates with the original one.",
    paper="https://arxiv.org/abs/2402.05947",
    repository="https://github.com/Dlut-lab-zmn/SepCE4MU",
    edit="weight",
    config=CieConfig,
    erase=erase,
    combine=combine_components,
    uses_guides=False,
    uses_preserve=False,
    needs=("latents", "pictures", "context", "write_snapshot"),
    families=("sd", "sdxl", "sd3", "flux", "generic"),
)
