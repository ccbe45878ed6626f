"""A null-space edit of the text encoder, as an entry to the U&ME unlearning challenge made it.

In each of a few early layers, the MLP's last map W (`mlp.fc2`) is changed so that the denoiser reads the concept as its
guide, in directions that protected prompts do not use. With k the layer's inputs for the concept's prompt (all tokens):

    z     = argmin_z | e(x_t, text of the concept with z for W k) - e(x_t, base's text of the guide) |^2, Adam from W k
    Delta = (V - W K) K^T P (K K^T P + lamb I)^-1,   K, V = k, z of a batch of copies, each with its own x_t
    W    <- W + Delta,   layer after layer, `epochs` times

x_t is a picture of the concept that the unedited model drew, with a little noise; P projects onto the directions that
are free of the protected prompts' inputs K0, of which all tokens count: those with a singular value of K0 K0^T below a
share of the mean (see `nullspace_solve`). Several concepts are edited one after the other, so cannot be told apart.

K0 are the prompts of `everyday` and the preserved ones, but for those that hold all words of a concept or of one of its
aliases. At least `min_directions` directions are free, or an eighth of the layer's width where that is less than 800.

Paper: AlphaEdit, https://arxiv.org/abs/2410.02355 (ICLR 2025), whose closed form this is. Reference:
https://github.com/Om2005Prakash/Editing-Concepts-in-Stable-Diffusion at 3a5d03e, the last commit that optimises its
targets (no licence: this is written from a description). It computes in half precision, this in float32, and it samples
by `lms`, which needs SciPy and is a setting here. Also settings, off by default, are its quirks `shared_projector`,
`protect_own` and `sigma_noise`, and `previous`, AlphaEdit's term for earlier edits, which it stores and never adds.
"""

from __future__ import annotations

import re
import time
import warnings

import torch
from torch import Tensor

from efface.edits.kinds import WeightEdit
from efface.edits.solution import Solution
from efface.errors import BadInput, BadRequest
from efface.methods.base import Latents, Method
from efface.methods.closed_form.everyday import EVERYDAY
from efface.methods.closed_form.ridge import ridge
from efface.methods.closed_form.tokens import prompt_pairs
from efface.methods.trained.nullspace.config import NullspaceConfig
from efface.methods.trained.nullspace.targets import EditableTextEncoder, Targets
from efface.models.model import Model
from efface.progress import Progress
from efface.request.record import Request

# The null-space edit of one weight, and the directions that it may use.
#
# With keys as columns of K1 (h, n), their wanted values V1 (d, n), an orthogonal projector P onto the directions that
# protected keys K0 (nearly) never point in, and keys Kp of earlier edits:
#
#     Delta = R K1^T P (K1 K1^T P + Kp Kp^T P + lamb I)^-1,   R = V1 - W K1          (h x h)
#           = [R, 0] (K^T P K + lamb I)^-1 K^T P,             K = [K1, Kp]           (n x n)
#
# which is AlphaEdit's closed form (arXiv 2410.02355), and the same with P = U U^T kept as its basis U. So Delta K0 ~
# 0,
# Delta P = Delta, and the rank of Delta is at most n. If K1 and Kp are c copies of k and kp with residuals r_1 .. r_c,
# both sides divide by c: it is the edit of k and kp with the mean residual and lamb / c. All in float64.


def free_directions(gram: Tensor, threshold: float, at_least: int) -> Tensor:
    """U, (h, s), orthonormal: the directions in which the protected keys are smallest.

    Args:
        gram: K0 K0^T, (h, h), float64.
        threshold: Singular values of it below this share of their mean are free ...
        at_least: ... and the smallest ones, however large, if those are fewer than this.
    """
    values, vectors = torch.linalg.eigh(gram)  # ascending, and for such a matrix the singular values
    free = int((values < threshold * values.mean()).sum())
    return vectors[:, : max(free, at_least)]


def change(keys: Tensor, residuals: Tensor, basis: Tensor, lamb: float, earlier: Tensor) -> tuple[Tensor, Tensor]:
    """Delta as factors `up` (d, n) and `down` (n, h).

    Args:
        keys: K1^T, (n, h), float64.
        residuals: R^T, (n, d).
        basis: U, (h, s), of the projector.
        lamb: The ridge.
        earlier: Kp^T, (m, h); none for the published edit.
    """
    inside = torch.cat([keys, earlier]) @ basis  # K^T U
    # Of K^T P K + lamb I, whose inverse is symmetric, only the rows of K1 meet a residual.
    chosen = torch.eye(len(inside), len(keys), dtype=torch.float64)
    return residuals.T, ridge(inside @ inside.T, chosen, lamb).T @ inside @ basis.T


def stored(parameter: str, delta: Tensor) -> WeightEdit:
    """The edit of one weight in float32: as factors of the rank that float32 resolves, where they are smaller."""
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    rank = int((values > torch.finfo(torch.float32).eps * values[0]).sum())
    if rank * sum(delta.shape) >= delta.numel():
        return WeightEdit(parameter, delta=delta.float())
    return WeightEdit(parameter, up=(left[:, :rank] * values[:rank]).float(), down=right[:rank].float())


_BATCH = 64  # protected prompts at once
_NARROW = 8  # of a narrow layer, at least one direction in so many is free


def erase(
    model: Model, request: Request, config: NullspaceConfig, latents: Latents, progress: Progress | None = None
) -> Solution:
    """Edit a copy of the text encoder, concept after concept; the model's own stays as it is."""
    prompts, guides = zip(*(prompt_pairs(concept, False)[0] for concept in request.concepts), strict=True)
    embedded = model.embed(prompts, clip_skip=request.clip_skip)
    towards = model.embed(guides, clip_skip=request.clip_skip).tokens
    tower = EditableTextEncoder(model, config.layers, request.clip_skip)
    weights = {layer: _Weight(tower, layer, basis) for layer, basis in _free(tower, request, config).items()}
    targets = Targets(model, tower, latents, config)
    started = time.perf_counter()
    for position, prompt in enumerate(prompts):
        ids = tower.ids([prompt])
        for epoch in range(config.epochs):
            done = position * config.epochs + epoch
            targets.draw(prompt, towards[position], done, request.clip_skip)
            for weight in weights.values():
                keys = tower.keys(ids, [weight.layer])[weight.layer][0]
                weight.edit(keys, targets.optimised(ids, weight.layer, keys), config.lamb / config.batch_size)
            if progress:
                progress("epochs", done + 1, len(prompts) * config.epochs)
        if config.previous:
            for layer, keys in tower.keys(ids, config.layers).items():
                weights[layer].keep(keys[0])
    if not all(bool(weight.delta.isfinite().all()) for weight in weights.values()):
        raise BadInput(f"The targets that {model.name} leads to are not finite; open it in float32, or lower lr.")
    edits = tuple(stored(tower.names[weight.layer], weight.delta) for weight in weights.values())
    directions = {str(weight.layer): weight.basis.shape[1] for weight in weights.values()}
    notes = {"settings": config.model_dump(mode="json"), "directions": directions}
    return Solution(request, edits, {}, notes, embedded, time.perf_counter() - started)


class _Weight:
    """One layer's W as it is being edited, float64."""

    def __init__(self, tower: EditableTextEncoder, layer: int, basis: Tensor) -> None:
        self._tower, self.layer, self.basis = tower, layer, basis
        self._base = tower.weight(layer)
        self.delta = torch.zeros_like(self._base)
        self._earlier = self._base.new_zeros(0, self._base.shape[1])

    def edit(self, keys: Tensor, targets: Tensor, lamb: float) -> None:
        """W <- W + Delta for keys (T, h) and one target (T, d) for each copy of them, (b, T, d)."""
        wide = keys.cpu().double()
        residuals = targets.cpu().double().mean(0) - wide @ (self._base + self.delta).T
        up, down = change(wide, residuals, self.basis, lamb, self._earlier)
        self.delta += up @ down
        self._tower.write(self.layer, self._base + self.delta)

    def keep(self, keys: Tensor) -> None:
        """Let later edits keep what W makes of keys (T, h)."""
        self._earlier = torch.cat([self._earlier, keys.cpu().double()])


def _free(tower: EditableTextEncoder, request: Request, config: NullspaceConfig) -> dict[int, Tensor]:
    """By layer, a basis (h, s) of the directions that protected prompts leave free."""
    prompts = protected(request, config)
    grams = {layer: torch.zeros(2 * tower.weight(layer).shape[1:], dtype=torch.float64) for layer in config.layers}
    for first in range(0, len(prompts), _BATCH):
        for layer, keys in tower.keys(tower.ids(prompts[first : first + _BATCH]), config.layers).items():
            rows = keys.flatten(0, 1).cpu().double()
            grams[layer] += rows.T @ rows
    needed = config.layers[-1:] if config.shared_projector else config.layers
    bases = {
        layer: free_directions(grams[layer], config.threshold, min(config.min_directions, len(grams[layer]) // _NARROW))
        for layer in needed
    }
    return {layer: bases[needed[-1] if config.shared_projector else layer] for layer in config.layers}


def protected(request: Request, config: NullspaceConfig) -> list[str]:
    """The prompts whose inputs no edit may use.

    Raises:
        BadRequest: There are none.
    """
    own = [_words(text) for concept in request.concepts for text in (concept.name, *concept.aliases)]
    prompts = list(dict.fromkeys([*request.preserve, *(EVERYDAY if config.everyday else ())]))
    kept = [
        prompt
        for prompt in prompts
        if config.protect_own or not any(words and words <= _words(prompt) for words in own)
    ]
    protects = set(kept)
    dropped = [prompt for prompt in request.preserve if prompt not in protects]
    if dropped:
        warnings.warn(f"'{dropped[0]}' holds the words of what is erased and is not protected.", stacklevel=3)
    if not kept:
        raise BadRequest("nullspace has no prompt left to protect; preserve some that do not hold the concept's words.")
    return kept


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


ENTRY = Method(
    name="nullspace",
    summary="Edits early layers of the text encoder, guided by pictures, where protected prompts use no direction.",
    paper="https://arxiv.org/abs/2410.02355",
    repository="https://github.com/Om2005Prakash/Editing-Concepts-in-Stable-Diffusion",
    edit="weight",
    config=NullspaceConfig,
    erase=erase,
    needs=("latents", "progress"),
)
