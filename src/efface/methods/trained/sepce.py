"""SepCE, separable concept erasure: each concept has a separate change, which does not affect the other concepts.

    W = W0 + sum_k Delta_k,    Delta_k = A_k (beta N_k),    N_k E_k^T = 0        in every map that reads the text

with E_k the tokens of the empty prompt, the preserved prompts and the other concepts (see `sepce_basis`). So Delta_k
changes none of their keys and values, and a concept is restored by leaving out its Delta_k. A_k starts at 0 and is
trained by Adam with the loss of `cie`, L_k = mean r r0, and its running mean (see `correlation`), for one concept,

    separate:  L_k + reg_beta / M sum_l |A_kl beta N_k|_1                        over the M maps

or for all K that have not stopped yet, with one image of each at the same timestep (and concept 1's last norm),

    joint:     1 / K sum_k [ w_k L_k + reg_beta sum_l mean |A_kl| ],    w_k = |r r0|_2 of concept 1 / |r r0|_2 of k

Since e(x_t, '') equals that of the base, the gradient only flows through e(x_t, c).

Paper: https://arxiv.org/abs/2402.05947 (SepME; later SRS-ME). Reference: https://github.com/Dlut-lab-zmn/SepCE4MU,
SRS_ME.py (960385a) and SepCE.py (ec5cc44), which has no licence; this is written from the equations. The defaults are
those of the paper and the README, not of the scripts' parsers. Deviations: the joint script stops its second concept at
1.5e-4 instead of 0, and saves no change for a concept that never stopped. The paper weighs by the largest norm
(`balance=max`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from efface.edits.kinds import Edit, WeightEdit
from efface.edits.solution import Solution
from efface.methods.base import CannotCombine, Latents, Method, Pictures, SnapshotWriter
from efface.methods.trained.correlation import CorrelationConfig, Momentum, NoisyImages
from efface.methods.trained.sepce_basis import EXACT, Confined, bases, protected_prompts
from efface.methods.training.objective import Batch, Losses, Objective
from efface.methods.training.run import OWNER, combine_components, train_concepts
from efface.methods.training.weights import Networks, check_trainable
from efface.models.model import Model
from efface.progress import RunContext
from efface.request.record import Request

_TOKENS = "tokens"  # the stored input with the tokens of the concepts, (k, T, d)
_NORM = "norm of the first"  # |r r0|_2, averaged over slots like all logged values
_JOINT = {"lr": 1e-2, "threshold": 0.0, "reg_beta": 3e-5}


class SepceConfig(CorrelationConfig):
    """SepCE's settings, by the reference's names; see `CorrelationConfig` for the rest.

    Attributes:
        training: Whether concepts are trained one after the other, or jointly. The defaults of lr, threshold and
            reg_beta depend on it.
        lr: Adam's learning rate; 1e-2 for joint training.
        threshold: The value of the running mean below which a concept's training stops; 0 for joint training.
        reg_beta: The weight of the size of the change; 3e-5 for joint training.
        scale_factor: The scale beta of the basis.
        balance: The concept whose norm the joint weights are relative to: the first, or the one with the largest norm.
        basis: The basis of the free directions: orthonormal, or as published.
        tolerance: The share of the largest singular value below which a direction is free of protected prompts.
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
    """The objective of SepCE for one concept, or jointly for several.

    Args:
        model: The base.
        request: The request with the concepts.
        config: The settings.
        directions: The basis N_k of each concept, (b_k, d).
        images: The noisy images of the concepts.
        data: A digest of the prompts that the directions depend on.
    """

    def __init__(
        self,
        model: Model,
        request: Request,
        config: SepceConfig,
        directions: Sequence[Tensor],
        images: NoisyImages,
        data: str,
    ) -> None:
        embedded = model.embed([*request.names, ""], clip_skip=request.clip_skip)
        texts = model.denoiser_text(embedded).to(model.device)
        self._concepts, self._null = texts.split([len(request.names), 1])  # (k, R, d), (1, R, d)
        scaled = [config.scale_factor * each for each in directions]
        self.weights = self._trained = Confined(model.denoiser, model.text_parameters(), scaled)
        self.iterations, self.keeps_gradients = images.iterations, config.accumulate_grads
        self._names, self._config, self.data = request.names, config, data + images.data
        self._networks, self._images = Networks(model, self.weights), images
        self._momentum = Momentum(len(self._names), config.threshold)
        self._active = list(range(len(self._names)))
        self._first = 0.0  # |r r0|_2 of concept 1, the last while it was trained

    def optimizer(self) -> torch.optim.Optimizer:
        groups = [{"params": self._trained.of(concept)} for concept in self._active]
        self._adam = torch.optim.Adam(groups, lr=self._config.lr)
        return self._adam

    def batch(self, slot: int, step: int) -> Batch:
        images, t = self._images.noisy(slot, step)
        x, t = images[self._active].flatten(0, 1), t.repeat(len(self._active))
        texts = torch.cat([self._read(len(x)), self._null.expand(len(x), -1, -1)])
        concept, null = self._networks.teacher(torch.cat([x, x]), torch.cat([t, t]), texts).chunk(2)
        return {"x": x, "t": t, "null": null, "truth": concept - null}

    def loss(self, batch: Batch) -> Losses:
        representation = self._networks.student(batch["x"], batch["t"], self._read(len(batch["x"]))) - batch["null"]
        products = (representation * batch["truth"]).unflatten(0, (len(self._active), -1)).flatten(1)  # (k, b C h w)
        correlations, sizes = products.mean(1), torch.stack([self._size(concept) for concept in self._active])
        norms = products.detach().norm(dim=1).clamp(min=torch.finfo(products.dtype).tiny)
        losses = self._balance(norms) * correlations + self._config.reg_beta * sizes
        logged = {
            f"correlation of {self._names[k]}": value for k, value in zip(self._active, correlations, strict=True)
        }
        if self._active[0] == 0:
            logged[_NORM] = norms[0]
        return {"loss": losses.mean(), **logged}

    def finished(self, step: int, losses: Mapping[str, float]) -> bool:
        self._first = losses.get(_NORM, self._first)
        falls = self._momentum.falls(step, [losses.get(f"correlation of {name}", 0.0) for name in self._names])
        self._stop([concept for concept in self._active if falls[concept]])
        return not self._active

    def state(self) -> dict[str, Tensor]:
        active = torch.tensor([concept in self._active for concept in range(len(self._names))])
        first = torch.tensor(self._first, dtype=torch.float64)
        return {**self._images.state(), "momentum": self._momentum.values, "active": active, "first": first}

    def restore(self, tensors: Mapping[str, Tensor], slots: Container[int]) -> None:
        self._images.restore(tensors)
        self._momentum.values, self._first = tensors["momentum"], float(tensors["first"])
        self._stop([concept for concept, active in enumerate(tensors["active"]) if not active])

    def _stop(self, concepts: Iterable[int]) -> None:
        """Freeze the coefficients of these concepts, which Adam's momentum would continue to change."""
        for concept in concepts:
            self._active.remove(concept)
            self._adam.param_groups[concept]["lr"] = 0.0

    def _read(self, n: int) -> Tensor:
        """The text embeddings of n samples, equally many of each active concept, (n, R, d)."""
        return self._concepts[self._active].repeat_interleave(n // len(self._active), 0)

    def _size(self, concept: int) -> Tensor:
        """The size of a concept's change, which `reg_beta` weighs."""
        if self._config.training == "joint":
            return torch.stack([coefficients.abs().mean() for coefficients in self._trained.of(concept)]).sum()
        return torch.stack([change.abs().sum() for change in self._trained.changes(concept)]).mean()

    def _balance(self, norms: Tensor) -> Tensor:
        """The weights w_k from the concepts' norms |r r0|_2, (k,); 1 for a single concept."""
        if self._config.balance == "max":
            return norms.max() / norms
        return (norms[0] if self._active[0] == 0 else self._first) / norms


def erase(
    model: Model,
    request: Request,
    config: SepceConfig,
    latents: Latents,
    pictures: Pictures,
    context: RunContext,
    write_snapshot: SnapshotWriter,
) -> Solution:
    """Train each concept's change, one after the other or jointly. In both cases each concept can be restored.

    Args:
        model: The model.
        request: The concepts and the preserved prompts.
        config: The settings.
        latents: Samples the latents of the images.
        pictures: Reads the images of a folder.
        context: The folder for checkpoints, and the progress callback.
        write_snapshot: Writes erasers of intermediate steps.

    Raises:
        BadRequest: The protected prompts leave no direction for a concept.
    """
    check_trainable(model)
    directions = bases(model, request, config.tolerance, config.basis == "published")

    def objective(part: Request) -> Sepce:
        images = NoisyImages(model, part, config, latents, pictures, context.progress)
        prompts = [protected_prompts(request, name) for name in part.names]
        data = hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
        return Sepce(model, part, config, [directions[name] for name in part.names], images, data)

    together = config.training == "joint"
    solution = train_concepts(model, request, config, context, write_snapshot, objective, together=together)
    tokens = model.embed(request.names, clip_skip=request.clip_skip).tokens.cpu().double()
    return replace(solution, inputs={**solution.inputs, _TOKENS: tokens})


def combine(parts: Sequence[Solution], request: Request) -> Solution:
    """The solution of some of one part's concepts: the other concepts' changes are left out.

    Raises:
        CannotCombine: There are several parts; their sum is exact only if each protects the concepts of the others.
    """
    if len(parts) == 1:
        (part,) = parts
        solution = combine_components(parts, request)
        if _TOKENS not in part.inputs:
            return solution
        tokens = part.inputs[_TOKENS][[part.concepts.index(name) for name in request.names]]
        return replace(solution, inputs={**solution.inputs, _TOKENS: tokens})
    protects = [{prompt.casefold() for prompt in (*part.concepts, *part.request.preserve)} for part in parts]
    exact = all(name.casefold() in prompts for prompts in protects for part in parts for name in part.concepts)
    reason = "they do not protect each other's concepts"
    if not exact:
        listed = ", ".join(f"'{one}' on '{other}' {leak:.1%}" for (one, other), leak in leaks(parts).items())
        reason += f" (change of keys and values, relative to that of its own concept: {listed})" if listed else ""
        reason += "; erase the later ones with --after the earlier ones"
    raise CannotCombine(reason, exact)


def leaks(parts: Sequence[Solution]) -> dict[tuple[str, str], float]:
    """How much the change of a concept in one part changes the keys and values of a concept in another part.

    The leak of Delta_i on the tokens E_j is relative to its effect on its own tokens:

        leak(i, j)^2 = sum_l |Delta_il E_j^T|^2 / sum_l |Delta_il E_i^T|^2

    Args:
        parts: Solutions that were trained separately.

    Returns:
        The leak by the names of both concepts, for the parts that store their tokens.
    """
    by_pair: dict[tuple[str, str], float] = {}
    stored = [part for part in parts if _TOKENS in part.inputs]
    for one in stored:
        for index, name in enumerate(one.concepts):
            edits = [e for e, owner in zip(one.edits, one.inputs[OWNER], strict=True) if owner == index]
            effect = _size_on(edits, one.inputs[_TOKENS][index])
            for other in stored:
                for place, neighbour in enumerate(other.concepts if other is not one else ()):
                    by_pair[name, neighbour] = _size_on(edits, other.inputs[_TOKENS][place]) / (effect or 1.0)
    return by_pair


def _size_on(edits: Sequence[Edit], tokens: Tensor) -> float:
    """The norm of the change of all keys and values of a concept's tokens (T, d)."""
    square = 0.0
    for edit in edits:
        assert isinstance(edit, WeightEdit)
        tensors = {name: tensor.double() for name, tensor in edit.tensors().items()}
        change = tensors["delta"] @ tokens.T if "delta" in tensors else tensors["up"] @ (tensors["down"] @ tokens.T)
        square += float(change.square().sum())
    return square**0.5


ENTRY = Method(
    name="sepce",
    summary="Trains a separate change for each concept, which does not affect other concepts and preserved prompts.",
    paper="https://arxiv.org/abs/2402.05947",
    repository="https://github.com/Dlut-lab-zmn/SepCE4MU",
    edit="weight",
    config=SepceConfig,
    erase=erase,
    combine=combine,
    uses_guides=False,
    needs=("latents", "pictures", "context", "write_snapshot"),
    families=("sd", "sdxl", "sd3", "flux", "generic"),
    after="separate",
)
