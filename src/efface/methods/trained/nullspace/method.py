"""A null-space edit of the text encoder, after an entry to the U&ME unlearning challenge.

In each of a few early layers, the last map W of the MLP (`mlp.fc2`) is changed such that the denoiser reads the concept
as its guide. The change uses only directions that protected prompts do not use. With k the layer's inputs for the
concept's prompt (all tokens):

    z     = argmin_z | e(x_t, text of the concept with z for W k) - e(x_t, base's text of the guide) |^2, Adam from W k
    Delta = (V - W K) K^T P (K K^T P + lamb I)^-1,   K, V = k, z of a batch of copies, each with its own x_t
    W    <- W + Delta,   layer after layer, `epochs` times

x_t is an image of the concept from the unedited model, with a little noise. P projects onto the directions that the
inputs K0 of the protected prompts (all tokens) do not use: those with a singular value of K0 K0^T below a share of the
mean. Several concepts are edited one after the other, so the result cannot be split.

The published edit sees the bare concept alone. In a sentence the layers have other inputs, so prompts in sentences and
styles forget less often. With `sentences`, the concept and its aliases are edited in sentences too: K and V
have the columns of up to `batch_size` sentences per epoch, in turn, each with the guide in the same sentence as its
target. With `target=text`, z brings the text embedding, not the denoiser's prediction, to that of the guide, which
moves it further in fewer steps and needs no image.

The protected prompts are those of `everyday` and the preserved ones, except prompts that contain all words of a concept
or of one of its aliases. At least `min_directions` directions are free, or an eighth of the layer's width if that is
less.

The edit of one weight, with keys as columns of K1 (h, n), their target values V1 (d, n), an orthogonal projector P onto
the directions that protected keys K0 (nearly) never use, and keys Kp of earlier edits:

    Delta = R K1^T P (K1 K1^T P + Kp Kp^T P + lamb I)^-1,   R = V1 - W K1          (h x h)
          = [R, 0] (K^T P K + lamb I)^-1 K^T P,             K = [K1, Kp]           (n x n)

This is AlphaEdit's closed form, and the same with P = U U^T stored as its basis U. So Delta K0 ~ 0, Delta P = Delta,
and the rank of Delta is at most n. If K1 and Kp are c copies of k and kp with residuals r_1 .. r_c, both sides can be
divided by c: it is the edit of k and kp with the mean residual and lamb / c. All in float64.

Paper: AlphaEdit, https://arxiv.org/abs/2410.02355 (ICLR 2025), for the closed form. Reference:
https://github.com/Om2005Prakash/Editing-Concepts-in-Stable-Diffusion at 3a5d03e, the last commit that optimises its
targets (no licence: this is written from a description). Deviations: the reference computes in half precision, this in
float32. It samples by `lms`, which needs SciPy and is a setting here. Its quirks `shared_projector`, `protect_own` and
`sigma_noise` are settings too, off by default, and so is `previous`, AlphaEdit's term for earlier edits, which the
reference stores but never adds.
"""

from __future__ import annotations

import re
import time

import torch
from torch import Tensor

from efface.edits.kinds import WeightEdit
from efface.edits.solution import Solution
from efface.errors import BadInput, BadRequest
from efface.methods.base import Latents, Method
from efface.methods.closed_form.everyday import EVERYDAY
from efface.methods.closed_form.ridge import ridge
from efface.methods.closed_form.tokens import prompt_pairs
from efface.methods.left_out import warn_left_out
from efface.methods.trained.nullspace.config import NullspaceConfig
from efface.methods.trained.nullspace.sentences import sentence_pairs
from efface.methods.trained.nullspace.targets import EditableTextEncoder, Targets
from efface.models.model import Model
from efface.progress import Progress
from efface.request.record import Request

_BATCH = 64  # protected prompts at once
_NARROW = 8  # in a narrow layer, at least one direction in so many is free


def free_directions(gram: Tensor, threshold: float, at_least: int) -> Tensor:
    """The orthonormal basis U, (h, s), of the directions in which the protected keys are smallest.

    Args:
        gram: The matrix K0 K0^T, (h, h), float64.
        threshold: The share of the mean singular value below which a direction is free.
        at_least: The least number of free directions.
    """
    values, vectors = torch.linalg.eigh(gram)  # ascending; they equal the singular values
    free = int((values < threshold * values.mean()).sum())
    return vectors[:, : max(free, at_least)]


def null_space_change(
    keys: Tensor, residuals: Tensor, basis: Tensor, lamb: float, earlier: Tensor
) -> tuple[Tensor, Tensor]:
    """Delta as factors `up` (d, n) and `down` (n, h).

    Args:
        keys: The keys K1^T, (n, h), float64.
        residuals: The residuals R^T, (n, d).
        basis: The basis U of the projector, (h, s).
        lamb: The ridge.
        earlier: The keys Kp^T of earlier edits, (m, h); no rows for the published edit.
    """
    inside = torch.cat([keys, earlier]) @ basis  # K^T U
    # Only the rows of K1 in the symmetric inverse of K^T P K + lamb I have a residual.
    chosen = torch.eye(len(inside), len(keys), dtype=torch.float64)
    return residuals.T, ridge(inside @ inside.T, chosen, lamb).T @ inside @ basis.T


def weight_edit(parameter: str, delta: Tensor) -> WeightEdit:
    """The edit of one weight for a change (d, h), in float32: as low-rank factors if they are smaller."""
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    rank = int((values > torch.finfo(torch.float32).eps * values[0]).sum())
    if rank * sum(delta.shape) >= delta.numel():
        return WeightEdit(parameter, delta=delta.float())
    return WeightEdit(parameter, up=(left[:, :rank] * values[:rank]).float(), down=right[:rank].float())


def erase(
    model: Model, request: Request, config: NullspaceConfig, latents: Latents, progress: Progress | None = None
) -> Solution:
    """Edit a copy of the text encoder, one concept after the other. The model does not change.

    Args:
        model: The model.
        request: The concepts, their guides and the preserved prompts.
        config: The settings.
        latents: Samples the latents of the images.
        progress: The progress callback.

    Raises:
        BadInput: The model has no single CLIP text encoder, or a target is not finite.
        BadRequest: No prompt is left to protect.
    """
    pairs = [
        sentence_pairs(concept) if config.sentences else prompt_pairs(concept, False) for concept in request.concepts
    ]
    embedded = model.embed([of_concept[0][0] for of_concept in pairs], clip_skip=request.clip_skip)
    encoder = EditableTextEncoder(model, config.layers, request.clip_skip)
    weights = {layer: _Weight(encoder, layer, basis) for layer, basis in _free(encoder, request, config).items()}
    targets = Targets(model, encoder, latents, config)
    started = time.perf_counter()
    for position, of_concept in enumerate(pairs):
        prompts, guides = zip(*of_concept, strict=True)
        all_ids = encoder.ids(prompts)
        towards = model.embed(guides, clip_skip=request.clip_skip).tokens
        at_once = min(len(prompts), config.batch_size)
        for epoch in range(config.epochs):
            done = position * config.epochs + epoch
            turn = [(epoch * at_once + k) % len(prompts) for k in range(at_once)]
            ids = all_ids[turn]
            targets.draw(prompts[turn[0]], towards[turn], done, request.clip_skip)
            for weight in weights.values():
                keys = encoder.keys(ids, [weight.layer])[weight.layer]
                lamb = config.lamb / (config.batch_size // at_once)
                weight.edit(keys, targets.optimised(ids, weight.layer, keys), lamb)
            if progress:
                progress("epochs", done + 1, len(pairs) * config.epochs)
        if config.previous:
            for layer, keys in encoder.keys(all_ids, config.layers).items():
                weights[layer].preserve(keys)
    if not all(bool(weight.delta.isfinite().all()) for weight in weights.values()):
        raise BadInput(f"The targets for {model.name} are not finite; open it in float32, or lower lr.")
    edits = tuple(weight_edit(encoder.names[weight.layer], weight.delta) for weight in weights.values())
    directions = {str(weight.layer): weight.basis.shape[1] for weight in weights.values()}
    notes = {"settings": config.model_dump(mode="json"), "directions": directions}
    return Solution(request, edits, {}, notes, embedded, time.perf_counter() - started)


class _Weight:
    """The weight W of one layer during editing, float64."""

    def __init__(self, encoder: EditableTextEncoder, layer: int, basis: Tensor) -> None:
        self._encoder, self.layer, self.basis = encoder, layer, basis
        self._base = encoder.weight(layer)
        self.delta = torch.zeros_like(self._base)
        self._earlier = self._base.new_zeros(0, self._base.shape[1])

    def edit(self, keys: Tensor, targets: Tensor, lamb: float) -> None:
        """W <- W + Delta for keys (u, T, h) and their targets (u, T, d)."""
        rows = keys.flatten(0, 1).cpu().double()
        residuals = targets.flatten(0, 1) - rows @ (self._base + self.delta).T
        up, down = null_space_change(rows, residuals, self.basis, lamb, self._earlier)
        self.delta += up @ down
        self._encoder.write(self.layer, self._base + self.delta)

    def preserve(self, keys: Tensor) -> None:
        """Preserve W k for keys k (u, T, h) in later edits."""
        self._earlier = torch.cat([self._earlier, keys.flatten(0, 1).cpu().double()])


def _free(encoder: EditableTextEncoder, request: Request, config: NullspaceConfig) -> dict[int, Tensor]:
    """The basis (h, s) of the free directions of each layer."""
    prompts = prompts_to_protect(request, config)
    encoder.check_lengths(request.preserve)
    grams = {layer: torch.zeros(2 * encoder.weight(layer).shape[1:], dtype=torch.float64) for layer in config.layers}
    for first in range(0, len(prompts), _BATCH):
        for layer, keys in encoder.keys(encoder.ids(prompts[first : first + _BATCH]), config.layers).items():
            rows = keys.flatten(0, 1).cpu().double()
            grams[layer] += rows.T @ rows
    needed = config.layers[-1:] if config.shared_projector else config.layers
    bases = {
        layer: free_directions(grams[layer], config.threshold, min(config.min_directions, len(grams[layer]) // _NARROW))
        for layer in needed
    }
    return {layer: bases[needed[-1] if config.shared_projector else layer] for layer in config.layers}


def prompts_to_protect(request: Request, config: NullspaceConfig) -> list[str]:
    """The prompts whose directions no edit may use.

    Raises:
        BadRequest: No prompt is left.
    """
    names = [_words(text) for concept in request.concepts for text in (concept.name, *concept.aliases)]
    prompts = list(dict.fromkeys([*request.preserve, *(EVERYDAY if config.everyday else ())]))
    protected = [
        prompt
        for prompt in prompts
        if config.protect_own or not any(words and words <= _words(prompt) for words in names)
    ]
    remaining = set(protected)
    dropped = [prompt for prompt in request.preserve if prompt not in remaining]
    warn_left_out("nullspace", dropped, "that contain the words of an erased concept")
    if not protected:
        raise BadRequest("nullspace has no prompt to protect; preserve some that do not contain the concept's words.")
    return protected


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


ENTRY = Method(
    name="nullspace",
    summary="Edits early layers of the text encoder, in directions that protected prompts do not use.",
    paper="https://arxiv.org/abs/2410.02355",
    repository="https://github.com/Om2005Prakash/Editing-Concepts-in-Stable-Diffusion",
    edit="weight",
    config=NullspaceConfig,
    erase=erase,
    needs=("latents", "progress"),
)
