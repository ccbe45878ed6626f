"""RECE, derive and erase: finds the embeddings that still produce the concept, erases them too, and repeats.

RECE starts from UCE, M = I + D_uce. It repeats two steps `epochs` times, with the current weights W_l = W_l^0 M and the
original weights W_l^0:

    derive  c' = argmin_x sum_l |W_l x - W_l^0 c|^2 + lam_r |x|^2           for every token c of the concept's prompt
    erase   W_l <- UCE of the current W_l with the pairs (c'_t, g_t), t = 0..T-1; all concepts at once

Since sum_l W_l^T W_l = M^T S M and sum_l W_l^T W_l^0 = M^T S with S = sum_l W_l^0^T W_l^0, both steps only need S:

    c' = (lam_r I + M^T S M)^-1 M^T S c,    M <- M (I + L R^T)               (L, R by `solve_ridge`)

Paper: https://arxiv.org/abs/2407.12383 (ECCV 2024). Reference: https://github.com/CharlesGong12/RECE

With `target_ckpt`, RECE starts from an existing eraser or from the checkpoint of an edited model, whose operator M is
found by `checkpoint_operator`; the result cannot be split by concept.

Published settings by kind (None in the config): `epochs` 3 for one unsafe concept, 2 for several, else 1;
`regular_scale` 0.1 for unsafe, else 0.001 (the paper uses 0.1 for objects that UCE erases easily). A request is unsafe
if one of its concepts is. All tokens of the empty prompt are preserved: once, or once per concept in an unsafe request,
as in the reference's scripts. Unlike those, no epoch is skipped because of a judge's verdict.

Published, all T tokens of the prompt are derived and erased, also the start token, which every prompt has, and the
padding, which differs little between prompts; so other concepts change too, and styles most. With `tokens=last`, only
the last subject token is derived and erased, from the `token` variant of UCE, and of a preserved prompt only that token
is preserved. `emoji` recommends this: there it forgets as much, and retains the other concepts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from efface.edits.composition import composed
from efface.edits.kinds import Edit, TextEdit
from efface.edits.solution import Solution
from efface.errors import BadRequest
from efface.methods.base import CannotCombine, EraserReader, Method, Recognised
from efface.methods.closed_form import uce
from efface.methods.closed_form.checkpoint_operator import operator_of
from efface.methods.closed_form.ridge import PreservedTokens, ridge, solve_ridge
from efface.methods.closed_form.stored import stored_concepts, stored_preserved
from efface.methods.closed_form.tokens import BATCH, embedding_once, prompt_pairs
from efface.methods.closed_form.uce import UceConfig
from efface.models.model import Model
from efface.models.text.embedded import Embedded
from efface.models.text_gram import text_gram
from efface.request.record import Request
from efface.settings import Settings

_LOGGER = logging.getLogger(__name__)


Preset = Literal["nudity", "unsafe", "art", "difficult", "easy"]
#: The published settings: the paper's, and those of the repository's README.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "nudity": {"regular_scale": 0.1, "epochs": 3},
    "unsafe": {"regular_scale": 0.1, "epochs": 2},
    "art": {"regular_scale": 1e-3, "epochs": 1},
    "difficult": {"regular_scale": 1e-3, "epochs": 1},
    "easy": {"regular_scale": 0.1, "epochs": 1},
}
_IMAGES = 4  # for each prompt by which `skip_if_forgotten` measures


class ReceConfig(Settings):
    """RECE's settings, by the reference's names.

    Attributes:
        lamb: The ridge of each erasing step, towards the current weights.
        preserve_scale: The weight of the preserved tokens.
        erase_scale: The weight of the derived tokens.
        regular_scale: The ridge lam_r of the derivation; None is the published value for the kind.
        epochs: The number of times to derive and erase; None is the published number for the kind.
        emb_computing: The regulariser of the derivation. `close_regzero` holds c' near zero; `close_surrogatereg` near
            the concept, in the norm of `reg_item`; `close_standardreg` near the guide.
        reg_item: The regulariser of `close_surrogatereg`: `1st` is lam_r |W_l (x - c)|^2 in every layer, `2nd` is
            lam_r |x - c|^2, and `both` is their sum.
        target_ckpt: The file to start from: UCE's checkpoint itself, or an eraser by uce; None to solve for one.
        preset: The published `regular_scale` and `epochs` by what is erased: `nudity`, `unsafe` for several unsafe
            concepts, `art`, and `difficult` and `easy` objects, which UCE alone does not or does forget well. Other
            settings override it.
        skip_if_forgotten: Whether to generate images with UCE's result first, and to leave out all epochs if a judge
            recognises no concept in them, as the paper does for objects that UCE alone erases.
        tokens: The tokens to derive and erase: `all` tokens of the concept's prompt, or the `last` subject token.
        uce: The settings of the UCE to start from, given as `uce.lamb` and so on; by default its `window` variant, or
            its `token` variant with `tokens=last`.
    """

    lamb: float = Field(default=0.1, gt=0)
    preserve_scale: float = Field(default=0.1, ge=0)
    erase_scale: float = Field(default=1.0, gt=0)
    regular_scale: float | None = Field(default=None, ge=0)
    epochs: int | None = Field(default=None, ge=0)
    emb_computing: Literal["close_regzero", "close_surrogatereg", "close_standardreg"] = "close_regzero"
    reg_item: Literal["1st", "2nd", "both"] = "1st"
    target_ckpt: str | None = None
    preset: Preset | None = None
    skip_if_forgotten: bool = False
    tokens: Literal["last", "all"] = "all"
    uce: UceConfig = UceConfig(variant="window")

    @model_validator(mode="before")
    @classmethod
    def _expanded(cls, values: dict[str, Any]) -> dict[str, Any]:
        values = {**PRESETS.get(str(values.get("preset")), {}), **values}
        start = {name[4:]: value for name, value in values.items() if name.startswith("uce.")}
        if not start and (values.get("target_ckpt") or values.get("tokens") != "last"):
            return values
        if start.get("technique") == "tensor":
            raise BadRequest("rece starts from uce's technique 'replace'; 'tensor' edits each layer differently.")
        if values.get("target_ckpt"):
            raise BadRequest("rece starts from uce's settings or from target_ckpt; leave one of them out.")
        rest = {name: value for name, value in values.items() if not name.startswith("uce.")}
        variant = "token" if values.get("tokens") == "last" else "window"
        return {**rest, "uce": UceConfig.model_validate({"variant": variant, **start})}


def erase(
    model: Model, request: Request, config: ReceConfig, read_eraser: EraserReader, recognised: Recognised
) -> Solution:
    """Solve for a request. Only the model's text encoder and S are used, except for `skip_if_forgotten`.

    Args:
        model: The model.
        request: The concepts, their guides and the preserved prompts.
        config: The settings.
        read_eraser: Reads the eraser of `target_ckpt`.
        recognised: For `skip_if_forgotten`: generates images and measures how often a judge recognises a concept.

    Raises:
        BadRequest: `target_ckpt` is not an eraser by uce.
    """
    model = embedding_once(model)
    gram = text_gram(model)
    prompts, guides = zip(*(prompt_pairs(concept, False)[0] for concept in request.concepts), strict=True)
    preserved = PreservedTokens(model.width)
    preserved_prompts = _preserved_prompts(request)
    for first in range(0, len(preserved_prompts), BATCH):
        batch = preserved_prompts[first : first + BATCH]
        preserved.add(_tokens(model.embed(batch, clip_skip=request.clip_skip), config).flatten(0, 1))
    embedded = model.embed(prompts, clip_skip=request.clip_skip)
    inputs = {
        "concepts": _tokens(embedded, config),
        "guides": _tokens(model.embed(guides, clip_skip=request.clip_skip), config),
        "empty": model.embed([""], clip_skip=request.clip_skip).tokens[0].double(),
        **preserved.tensors(),
        "S": gram.matrix,
    }
    start = None
    if config.target_ckpt is None:
        start = uce.erase(model, request, config.uce)
        edits, embedded = start.edits, start.embedded
    else:
        operator = operator_of(read_eraser(config.target_ckpt), config.target_ckpt, model, gram)
        inputs |= {f"start.{name}": tensor for name, tensor in operator.tensors().items()}
        edits = (operator,)
    notes: dict[str, Any] = {}
    if config.skip_if_forgotten:
        if len(model.streams) > 1:
            raise BadRequest(f"skip_if_forgotten is for models with one text embedding; {model.name} has several.")
        notes = {"recognised_after_uce": _shares_after_uce(request, edits, recognised)}
        config = _without_epochs(config, notes)
    solution = _derive_and_erase(request, inputs, config, start)
    return replace(solution, embedded=embedded, notes={**solution.notes, **notes})


def _shares_after_uce(request: Request, edits: Sequence[Edit], recognised: Recognised) -> dict[str, float]:
    """For each concept, the share of UCE's images that show it."""
    shares: dict[str, float] = {}
    for concept in request.concepts:
        prompts = [prompt for prompt, _ in prompt_pairs(concept, True)]
        shares[concept.name] = recognised(
            concept.name, prompts, edits, seeds=range(_IMAGES), clip_skip=request.clip_skip
        )
        _LOGGER.info("After UCE alone, %.0f%% of the images show '%s'.", 100 * shares[concept.name], concept.name)
    if not any(shares.values()):
        _LOGGER.info("UCE alone erases %s: no epoch of RECE is run.", ", ".join(request.names))
    return shares


def _without_epochs(config: ReceConfig, notes: Mapping[str, Any]) -> ReceConfig:
    """The settings without epochs, if UCE alone erased all concepts."""
    shares = notes.get("recognised_after_uce", {})
    return config.model_copy(update={"epochs": 0}) if shares and not any(shares.values()) else config


def combine(parts: Sequence[Solution], request: Request) -> Solution:
    """The solution of the request's concepts: all derivations are repeated from the inputs that the parts store.

    Raises:
        CannotCombine: The parts started from a checkpoint; or they preserve different prompts, and of many only the sum
            is stored.
    """
    first, config = parts[0], ReceConfig.model_validate(request.options)
    if config.target_ckpt is not None:
        raise CannotCombine("rece started from a checkpoint of all its concepts")
    starts = [replace(part, inputs=_uce_inputs(part.inputs)) for part in parts]
    start = uce.combine_with_config(starts, request, config.uce)
    inputs = {
        "concepts": stored_concepts(parts, request, "concepts"),
        "guides": stored_concepts(parts, request, "guides"),
        "empty": first.inputs["empty"],
        **stored_preserved(parts, request, first.inputs["empty"].shape[1], _preserved_prompts),
        "S": first.inputs["S"],
    }
    notes = dict(first.notes)
    if config.skip_if_forgotten:
        shares = {name: share for part in parts for name, share in part.notes["recognised_after_uce"].items()}
        notes["recognised_after_uce"] = {name: shares[name] for name in request.names}
    solution = _derive_and_erase(request, inputs, _without_epochs(config, notes), start)
    return replace(solution, notes={**notes, **solution.notes})


def _derive_and_erase(
    request: Request, inputs: Mapping[str, Tensor], config: ReceConfig, start: Solution | None = None
) -> Solution:
    """Run all epochs from uce's solution `start`, or else from the operator in `inputs`."""
    started = time.perf_counter()
    config = _published(request, config)
    assert config.epochs is not None
    if start is None:
        edit = TextEdit(inputs["start.left"], inputs["start.right"])
    else:
        (edit,) = start.edits
        assert isinstance(edit, TextEdit)
        inputs = {**inputs, **{f"uce.{name}": tensor for name, tensor in start.inputs.items()}}
    tokens, guides = inputs["concepts"].flatten(0, 1), inputs["guides"].flatten(0, 1)
    scales = {"erase_scale": config.erase_scale, "preserve_scale": config.preserve_scale, "lamb": config.lamb}
    for _ in range(config.epochs):
        derived = _derived(edit, inputs["S"], tokens, guides, config)
        edit = composed(edit, solve_ridge(derived, guides, _preserved(request, inputs), **scales))
    settings = config.model_dump() | {"uce": None if start is None else dict(start.settings)}
    return Solution(request, (edit,), inputs, {"settings": settings}, solve_seconds=time.perf_counter() - started)


def _uce_inputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs of the uce solution that rece started from."""
    return {name[4:]: tensor for name, tensor in inputs.items() if name.startswith("uce.")}


def _tokens(embedded: Embedded, config: ReceConfig) -> Tensor:
    """The tokens of each prompt that the settings select, (n, t, d), float64."""
    if config.tokens == "all":
        return embedded.tokens.double()
    return embedded.last_tokens.double().unflatten(0, (len(embedded.prompts), -1))


def _preserved_prompts(request: Request) -> list[str]:
    """The preserved prompts except the empty one, which is always preserved."""
    return [prompt for prompt in request.preserve if prompt.strip()]


def _published(request: Request, config: ReceConfig) -> ReceConfig:
    unsafe = any(concept.kind == "unsafe" for concept in request.concepts)
    epochs, scale = (3 if len(request.concepts) == 1 else 2, 0.1) if unsafe else (1, 1e-3)
    return config.model_copy(
        update={
            "epochs": epochs if config.epochs is None else config.epochs,
            "regular_scale": scale if config.regular_scale is None else config.regular_scale,
        }
    )


def _preserved(request: Request, inputs: Mapping[str, Tensor]) -> PreservedTokens:
    """The tokens of the preserved prompts, and those of the empty prompt with the reference's multiplicity."""
    times = len(request.concepts) if any(concept.kind == "unsafe" for concept in request.concepts) else 1
    preserved = PreservedTokens.from_tensors(inputs, inputs["empty"].shape[1])
    preserved.add(inputs["empty"] * times**0.5)
    return preserved


def _derived(edit: TextEdit, S: Tensor, tokens: Tensor, guides: Tensor, config: ReceConfig) -> Tensor:
    """The embeddings that restore `tokens` (n, d) through the edited weights, (n, d)."""
    assert config.regular_scale is not None
    lam = config.regular_scale
    eye = torch.eye(edit.dim, dtype=torch.float64)
    operator = eye + edit.matrix
    gram, cross = operator.T @ S @ operator, operator.T @ S
    gram = (gram + gram.T) / 2
    if config.emb_computing == "close_regzero":
        return ridge(gram, cross @ tokens.T, lam).T
    if config.emb_computing == "close_standardreg":
        return ridge(gram, cross @ tokens.T + lam * guides.T, lam).T
    in_layers = lam if config.reg_item != "2nd" else 0.0
    in_space = lam if config.reg_item != "1st" else 0.0
    sides = (cross + in_layers * gram) @ tokens.T + in_space * tokens.T
    return ridge((1 + in_layers) * gram, sides, in_space).T


ENTRY = Method(
    name="rece",
    summary="Erases by uce, then repeatedly finds and erases the embeddings that would restore the concept.",
    paper="https://arxiv.org/abs/2407.12383",
    repository="https://github.com/CharlesGong12/RECE",
    edit="text",
    config=ReceConfig,
    erase=erase,
    combine=combine,
    needs=("read_eraser", "recognised"),
)
