"""CiE, concept-irrelevant representations: decorrelates the concept's contribution to the prediction from the original.

    r(x_t) = e(x_t, c) - e(x_t, ''),    loss = L + reg_beta * w * sum_p |theta_p - theta0_p|_1

    published:  L = mean r r0                                          w = 1 / P
    relative:   L = sum_b <r_b, r0_b> / |r0_b|_2 / sum_b |r0_b|_2      w = the root mean square of dL / dtheta at theta0

over the P parameters (tensors) of cross-attention (in a transformer, of all attention), with r0 and theta0 of the base
and samples b of a batch, by Adam, until a running mean of L is below `threshold` (see `correlation`). The gradient
flows through both predictions of r.

Paper: https://arxiv.org/abs/2402.05947 (SepME; the method is its concept-irrelevant representations, and a variant of
SRS-ME). Reference: https://github.com/Dlut-lab-zmn/SepCE4MU, CiE.py (960385a), which has no licence; this is written
from the equations. The defaults are those of the script. Its README uses threshold 0 and reg_beta 3e-5 for a style,
the paper lr 1e-5. Deviations:

- `relative` is not published. The published L starts at mean r0^2, which is 40 times larger for an object than for a
  style of `emoji`, and its gradient is 10 times larger, so that one `threshold` and one `reg_beta` cannot suit both.
  The relative L starts at 1 and is 0 if r does not correlate with r0, and `reg_beta` is a share of its gradient: a
  parameter of a smaller gradient moves little. Dividing by |r0| gives more weight to timesteps at which the concept
  contributes little to the prediction, but decides what the image shows.
- The images of the concept stay latents here; the scripts generate 1000 images, decode them, and use each once, as
  `datapath` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping

import torch
from pydantic import Field
from torch import Tensor

from efface.edits.solution import Solution
from efface.methods.base import Latents, Method, Pictures, SnapshotWriter
from efface.methods.trained.correlation import CorrelationConfig, Momentum, NoisyImages
from efface.methods.trained.denoiser_parameters import TrainMethod, trained_parameters
from efface.methods.training.objective import Batch, Losses, Objective
from efface.methods.training.run import combine_components, train_concepts
from efface.methods.training.weights import Copies, Networks
from efface.models.model import Model
from efface.progress import RunContext
from efface.request.record import Request

_MEASURED_STEPS = 8


class CieConfig(CorrelationConfig):
    """CiE's settings, by the reference's names; see `CorrelationConfig` for the rest.

    Attributes:
        lr: Adam's learning rate.
        threshold: The value of the running mean below which the training stops.
        reg_beta: The weight of the distance to the base.
        relative: Whether `threshold` is relative to the correlation before training, and `reg_beta` to its gradient.
        train_method: The parameters to train, by the names of `esd`.
    """

    lr: float = Field(default=1e-6, gt=0, lt=1e38)
    threshold: float = 5e-5
    reg_beta: float = Field(default=1e-5, ge=0)
    relative: bool = False
    train_method: TrainMethod = "esd-x"


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
        self.weights = self._trained = Copies(model.denoiser, trained_parameters(model.denoiser, config.train_method))
        self.iterations, self.keeps_gradients, self.data = images.iterations, config.accumulate_grads, images.data
        self._config, self._networks, self._images = config, Networks(model, self.weights), images
        self._momentum = Momentum(1, config.threshold)
        self._weight = None if config.relative else 1.0  # P w; the first batch measures that of `relative`

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.weights.parameters(), lr=self._config.lr)

    def batch(self, slot: int, step: int) -> Batch:
        if self._weight is None:
            self._weight = len(self._trained.names) * self._gradient_size()
        x, t = self._images.noisy(slot, step)
        return {"x": x[0], "t": t, "truth": self._representation(self._networks.teacher, x[0], t)}

    def loss(self, batch: Batch) -> Losses:
        representation = self._representation(self._networks.student, batch["x"], batch["t"])
        assert self._weight is not None
        correlation = self._correlation(representation, batch["truth"])
        distance = self._weight * torch.stack([change.abs().sum() for change in self._trained.changes()]).mean()
        return {"loss": correlation + self._config.reg_beta * distance, "correlation": correlation}

    def finished(self, step: int, losses: Mapping[str, float]) -> bool:
        return bool(self._momentum.falls(step, [losses["correlation"]]))

    def state(self) -> dict[str, Tensor]:
        # After a resume the weights are no longer the base's, so the weight of the distance cannot be measured again.
        weight = {"weight": torch.tensor([self._weight], dtype=torch.float64)} if self._weight is not None else {}
        return {**self._images.state(), **weight, "momentum": self._momentum.values}

    def restore(self, tensors: Mapping[str, Tensor], slots: Container[int]) -> None:
        self._images.restore(tensors)
        self._momentum.values = tensors["momentum"]
        if "weight" in tensors:
            self._weight = float(tensors["weight"])

    def _correlation(self, representation: Tensor, truth: Tensor) -> Tensor:
        """The first term L of r and r0, each (b, C, h, w)."""
        if not self._config.relative:
            return (representation * truth).mean()
        products, norms = (representation * truth).flatten(1).sum(1), truth.flatten(1).norm(dim=1)
        return (products / norms.clamp(min=torch.finfo(norms.dtype).tiny)).sum() / norms.sum()

    @torch.enable_grad()
    def _gradient_size(self) -> float:
        """The root mean square of the gradient of the first term before training, averaged over the first batches.

        It is the same in every process.
        """
        parameters = list(self.weights.parameters())
        gradients = [torch.zeros_like(parameter) for parameter in parameters]
        steps = range(min(_MEASURED_STEPS, self.iterations))
        for step in steps:
            x, t = self._images.noisy(0, step)
            truth = self._representation(self._networks.teacher, x[0], t)
            correlation = self._correlation(self._representation(self._networks.student, x[0], t), truth)
            for total, gradient in zip(gradients, torch.autograd.grad(correlation, parameters), strict=True):
                total += gradient / len(steps)
        squares = sum(float(gradient.square().sum()) for gradient in gradients)
        return math.sqrt(squares / sum(gradient.numel() for gradient in gradients))

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
