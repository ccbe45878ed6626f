"""SepCE, separable concept erasure: each concept has a change of its own, which leaves the other concepts as they were.

    W = W0 + sum_k Delta_k,    Delta_k = A_k (beta N_k),    N_k E_k^T = 0        in every map that reads the text

with E_k the tokens of the empty prompt, of what is preserved, and of the other concepts (see `sepce_basis`). So Delta_k
changes no key and no value of theirs, and a concept is given back by leaving its Delta_k out. A_k starts at 0 and is
trained by Adam with the loss of `cie`, L_k = mean r r0, and its running mean (see `correlation`), on one concept,

    separate:  L_k + reg_beta / M sum_l |A_kl beta N_k|_1                        over the M maps

or on all K that have not stopped yet, with one picture of each at the same timestep (and concept 1's last norm),

    joint:     1 / K sum_k [ w_k L_k + reg_beta sum_l mean |A_kl| ],    w_k = |r r0|_2 of concept 1 / |r r0|_2 of k

Since e(x_t, '') is the base's, only e(x_t, c) is trained through.

Paper: https://arxiv.org/abs/2402.05947 (SepME; later SRS-ME). Reference: https://github.com/Dlut-lab-zmn/SepCE4MU,
SRS_ME.py (960385a) and SepCE.py (ec5cc44), which has no licence; this is written from the equations. Defaults are those
of the paper and the README, not of the scripts' parsers. The joint script stops its second concept at 1.5e-4 instead of
0, and saves no change for one that never stopped; the paper weighs by the largest norm (`balance=max`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from efface.edits.solution import Solution
from efface.methods.base import CannotCombine, Latents, Method, SnapshotWriter
from efface.methods.trained.correlation import CorrelationConfig, Momentum, Pictures
from efface.methods.trained.sepce_basis import EXACT, Confined, bases, protected
from efface.methods.training.objective import Batch, Losses, Objective
from efface.methods.training.run import combine_components, train_concepts
from efface.methods.training.weights import Networks, check_trainable
from efface.models.model import Model
from efface.progress import RunContext
from efface.request.record import Request

_NORM = "norm of the first"  # |r r0|_2, averaged over slots as all that is logged
_JOINT = {"lr": 1e-2, "threshold": 0.0, "reg_beta": 3e-5}


class SepceConfig(CorrelationConfig):
    """SepCE's settings, by the reference's names; see `CorrelationConfig` for the rest.

    Attributes:
        training: One concept after the other, or all at once; the defaults of lr, threshold and reg_beta depend on it.
        lr: Adam's learning rate; joint 1e-2.
        threshold: Of the running mean; a concept's training stops below it; joint 0.
        reg_beta: Weight of the change's size; joint 3e-5.
        scale_factor: Beta.
        balance: The concept whose norm the joint weights are relative to: the first one, or the one with the largest.
        basis: Orthonormal, or as published.
        tolerance: The share below which protected prompts count as having no part in a direction.
    """

    training: Literal["separate", "joint"] = "separate"
    lr: float = Field(default=0.1, gt=0, lt=1e38)
    threshold: float = 1e-4
    reg_beta: float = Field(default=1e-6, ge=0)
    scale_factor: float = Field(default=1e-4, gt=0, lt=1e38)
    balance: Literal["first", "max"] = "first"
    basis: Literal["orthonormal", "published"] = "orthonormal"
    tolerance: float = Field(default=EXACT, ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {**(_JOINT if values.get("training") == "joint" else {}), **values}


class Sepce(Objective):
    """SepCE for one concept, or jointly for several.

    Args:
        model: The base.
        request: The concepts that are trained.
        config: The method's settings.
        directions: N_k of each.
        pictures: Of them.
        data: A digest of what the directions were computed from.
    """

    def __init__(
        self,
        model: Model,
        request: Request,
        config: SepceConfig,
        directions: Sequence[Tensor],
        pictures: Pictures,
        data: str,
    ) -> None:
        texts = model.embed([*request.names, ""], clip_skip=request.clip_skip).tokens.to(model.device)
        self._concepts, self._null = texts.split([len(request.names), 1])  # (k, T, d), (1, T, d)
        scaled = [config.scale_factor * each for each in directions]
        self.weights = self._trained = Confined(model.denoiser, model.text_parameters(), scaled)
        self.iterations, self.keeps_gradients = config.iter_break, config.accumulate_grads
        self._names, self._config, self.data = request.names, config, data
        self._networks, self._pictures = Networks(model, self.weights), pictures
        self._momentum = Momentum(len(self._names), config.threshold)
        self._active = list(range(len(self._names)))
        self._first = 0.0  # |r r0|_2 of concept 1, the last while it was trained

    def optimizer(self) -> torch.optim.Optimizer:
        groups = [{"params": self._trained.of(concept)} for concept in self._active]
        self._adam = torch.optim.Adam(groups, lr=self._config.lr)
        return self._adam

    def batch(self, slot: int, step: int) -> Batch:
        pictures, t = self._pictures.noisy(slot, step)
        x, t = pictures[self._active].flatten(0, 1), t.repeat(len(self._active))
        texts = torch.cat([self._read(len(x)), self._null.expand(len(x), -1, -1)])
        concept, null = self._networks.teacher(torch.cat([x, x]), torch.cat([t, t]), texts).chunk(2)
        return {"x": x, "t": t, "null": null, "truth": concept - null}

    def loss(self, batch: Batch) -> Losses:
        found = self._networks.student(batch["x"], batch["t"], self._read(len(batch["x"]))) - batch["null"]
        products = (found * batch["truth"]).unflatten(0, (len(self._active), -1)).flatten(1)  # (k, b C h w)
        correlations, sizes = products.mean(1), torch.stack([self._size(concept) for concept in self._active])
        norms = products.detach().norm(dim=1).clamp(min=torch.finfo(products.dtype).tiny)
        losses = self._balance(norms) * correlations + self._config.reg_beta * sizes
        told = {f"correlation of {self._names[k]}": value for k, value in zip(self._active, correlations, strict=True)}
        if self._active[0] == 0:
            told[_NORM] = norms[0]
        return {"loss": losses.mean(), **told}

    def finished(self, step: int, losses: Mapping[str, float]) -> bool:
        self._first = losses.get(_NORM, self._first)
        falls = self._momentum.falls(step, [losses.get(f"correlation of {name}", 0.0) for name in self._names])
        self._stop([concept for concept in self._active if falls[concept]])
        return not self._active

    def state(self) -> dict[str, Tensor]:
        active = torch.tensor([concept in self._active for concept in range(len(self._names))])
        first = torch.tensor(self._first, dtype=torch.float64)
        return {**self._pictures.state(), "momentum": self._momentum.values, "active": active, "first": first}

    def restore(self, tensors: Mapping[str, Tensor], slots: Container[int]) -> None:
        self._pictures.restore(tensors)
        self._momentum.values, self._first = tensors["momentum"], float(tensors["first"])
        self._stop([concept for concept, active in enumerate(tensors["active"]) if not active])

    def _stop(self, concepts: Iterable[int]) -> None:
        """Keep what these concepts have learnt: Adam would go on moving it."""
        for concept in concepts:
            self._active.remove(concept)
            self._adam.param_groups[concept]["lr"] = 0.0

    def _read(self, n: int) -> Tensor:
        """What n samples, equally many of each concept, read: (n, T, d)."""
        return self._concepts[self._active].repeat_interleave(n // len(self._active), 0)

    def _size(self, concept: int) -> Tensor:
        """What `reg_beta` weighs."""
        if self._config.training == "joint":
            return torch.stack([coefficients.abs().mean() for coefficients in self._trained.of(concept)]).sum()
        return torch.stack([change.abs().sum() for change in self._trained.changes(concept)]).mean()

    def _balance(self, norms: Tensor) -> Tensor:
        """w_k of the concepts' norms |r r0|_2, (k,): 1 for a concept alone."""
        if self._config.balance == "max":
            return norms.max() / norms
        return (norms[0] if self._active[0] == 0 else self._first) / norms


def erase(
    model: Model,
    request: Request,
    config: SepceConfig,
    latents: Latents,
    context: RunContext,
    write_snapshot: SnapshotWriter,
) -> Solution:
    """Train each concept's change from the base, or all at once; in both cases each can be restored."""
    check_trainable(model)
    found = bases(model, request, config.tolerance, config.basis == "published")

    def objective(part: Request) -> Sepce:
        pictures = Pictures(model, part, config, latents, context.progress)
        spared = [protected(request, name) for name in part.names]
        data = hashlib.sha256(json.dumps(spared).encode()).hexdigest()
        return Sepce(model, part, config, [found[name] for name in part.names], pictures, data)

    together = config.training == "joint"
    return train_concepts(model, request, config, context, write_snapshot, objective, together=together)


def combine(parts: Sequence[Solution], request: Request) -> Solution:
    """The solution of some of one part's concepts: the other concepts' changes are left out.

    Raises:
        CannotCombine: There are several parts; their sum is exact only if each protects the concepts of the others.
    """
    if len(parts) == 1:
        return combine_components(parts, request)
    protects = [{prompt.casefold() for prompt in (*part.concepts, *part.request.preserve)} for part in parts]
    exact = all(name.casefold() in prompts for prompts in protects for part in parts for name in part.concepts)
    raise CannotCombine("their bases were solved without each other: each may change the other's concepts", exact)


ENTRY = Method(
    name="sepce",
    summary="Trains for each concept a change that the other concepts and preserved prompts do not notice.",
    paper="https://arxiv.org/abs/2402.05947",
    repository="https://github.com/Dlut-lab-zmn/SepCE4MU",
    edit="weight",
    config=SepceConfig,
    erase=erase,
    combine=combine,
    uses_guides=False,
    needs=("latents", "context", "write_snapshot"),
    families=("sd",),
)
