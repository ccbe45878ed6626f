"""RECE, derive and erase: find the embeddings that still draw the concept, erase them too, and again.

It starts from UCE, M = I + D_uce. Then, `epochs` times, with W_l = W_l^0 M the current and W_l^0 the original weights:

    derive  c' = argmin_x sum_l |W_l x - W_l^0 c|^2 + lam_r |x|^2           for every token c of the concept's prompt
    erase   W_l <- UCE of the current W_l with the pairs (c'_t, g_t), t = 0..T-1; all concepts at once

Since sum_l W_l^T W_l = M^T S M and sum_l W_l^T W_l^0 = M^T S with S = sum_l W_l^0^T W_l^0, both steps need S only:

    c' = (lam_r I + M^T S M)^-1 M^T S c,    M <- M (I + L R^T)               (L, R by `closed_form.solve`)

Paper: https://arxiv.org/abs/2407.12383 (ECCV 2024). Reference: https://github.com/CharlesGong12/RECE

Published settings by kind (None in the config): `epochs` 3 for one unsafe concept, 2 for several, else 1;
`regular_scale` 0.1 for unsafe, else 0.001 (the paper takes 0.1 for objects that UCE erases easily). A request of
several kinds is `unsafe` if one of its concepts is. All tokens of the empty prompt are preserved: once, and with unsafe
concepts once for each concept, as in the reference's scripts. Unlike those, no epoch is left out by what a judge says.
With `target_ckpt` it starts from an eraser that is there already, which then cannot be split by concept.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from efface.edits.composition import composed
from efface.edits.kinds import TextEdit, WeightEdit
from efface.eraser.base import check_base
from efface.eraser.eraser import Base, Eraser
from efface.errors import BadRequest
from efface.methods.base import Method
from efface.methods.closed_form import uce
from efface.methods.closed_form.ridge import Kept, ridge, solve
from efface.methods.closed_form.stored import Apart, joined_concepts, joined_kept
from efface.methods.closed_form.tokens import BATCH, base_of, only_erases, prompt_pairs, provenance, remembering
from efface.methods.closed_form.uce import UceConfig
from efface.models.model import Model
from efface.models.text_gram import text_gram
from efface.request.record import Request
from efface.settings import Settings

if TYPE_CHECKING:
    from efface.models.text_gram import TextGram


class ReceConfig(Settings):
    """RECE's settings, by the reference's names.

    Attributes:
        lamb: the ridge of each erasing step, towards the current weights.
        preserve_scale: the weight of the preserved tokens.
        erase_scale: the weight of the derived tokens.
        regular_scale: lam_r of the derivation; None is published for the kind.
        epochs: how many times to derive and erase; None is published for the kind.
        emb_computing: how to derive. `close_regzero` holds c' near zero; `close_surrogatereg` near the concept by what
            layers read of it (`reg_item`); `close_standardreg` near the guide that UCE was given.
        reg_item: of the surrogate, `1st` is lam_r |W_l (x - c)|^2 in every layer, `2nd` lam_r |x - c|^2, or `both`.
        target_ckpt: the file of an eraser by uce to start from, such as an imported checkpoint; None solves for one.
        uce: settings of the UCE that it starts from, given as `uce.lamb` and so on; its `window` variant by default.
    """

    lamb: float = Field(default=0.1, gt=0)
    preserve_scale: float = Field(default=0.1, ge=0)
    erase_scale: float = Field(default=1.0, gt=0)
    regular_scale: float | None = Field(default=None, ge=0)
    epochs: int | None = Field(default=None, ge=0)
    emb_computing: Literal["close_regzero", "close_surrogatereg", "close_standardreg"] = "close_regzero"
    reg_item: Literal["1st", "2nd", "both"] = "1st"
    target_ckpt: str | None = None
    uce: UceConfig = UceConfig(variant="window")

    @model_validator(mode="before")
    @classmethod
    def _dotted(cls, values: dict[str, Any]) -> dict[str, Any]:
        start = {name[4:]: value for name, value in values.items() if name.startswith("uce.")}
        if not start:
            return values
        if start.get("technique") == "tensor":
            raise BadRequest("rece starts from uce's technique 'replace'; 'tensor' edits each layer in its own way.")
        if values.get("target_ckpt"):
            raise BadRequest("rece starts from uce's settings or from target_ckpt; leave one of them out.")
        rest = {name: value for name, value in values.items() if not name.startswith("uce.")}
        return {**rest, "uce": UceConfig.model_validate({"variant": "window", **start})}


def erase(model: Model, request: Request, config: ReceConfig) -> Eraser:
    """Solve for a request; of the model, only the text encoder and S are used."""
    only_erases(request)
    started = time.perf_counter()
    model = remembering(model)
    gram = text_gram(model)
    prompts, guides = zip(*(prompt_pairs(concept, False)[0] for concept in request.concepts), strict=True)
    kept = Kept(model.width)
    preserve = _preserved(request)
    for first in range(0, len(preserve), BATCH):
        kept.add(model.embed(preserve[first : first + BATCH], clip_skip=request.clip_skip).tokens.flatten(0, 1))
    embedded = model.embed(prompts, clip_skip=request.clip_skip)
    inputs = {
        "concepts": embedded.tokens.double(),
        "guides": model.embed(guides, clip_skip=request.clip_skip).tokens.double(),
        "empty": model.embed([""], clip_skip=request.clip_skip).tokens[0].double(),
        **kept.tensors(),
        "S": gram.matrix,
    }
    if config.target_ckpt is None:
        start = uce.erase(model, request, config.uce)
        inputs |= {f"uce.{name}": tensor for name, tensor in start.inputs.items()}
        base, settings = start.base, start.provenance["settings"]
    else:
        inputs |= {f"start.{k}": v for k, v in edit_of_checkpoint(config.target_ckpt, model, gram).tensors().items()}
        base, settings = base_of(model, embedded), dict[str, Any]()
    return _replay(request, base, inputs, provenance(settings, started, time.perf_counter()))


def only(eraser: Eraser, names: Sequence[str]) -> Eraser:
    """The eraser of some of its concepts: the same derivations, run again from what it stored."""
    request = eraser.request.keeping(names)
    if "start.left" in eraser.inputs:
        if request.names == eraser.concepts:
            return eraser
        raise BadRequest("rece started from a checkpoint of all its concepts, so this eraser cannot be split.")
    positions = [eraser.concepts.index(name) for name in request.names]
    start = uce.only(
        Eraser(
            eraser.request, (), eraser.base, _start(eraser.inputs), {"settings": eraser.provenance["settings"]["uce"]}
        ),
        names,
    )
    inputs = {
        **eraser.inputs,
        "concepts": eraser.inputs["concepts"][positions],
        "guides": eraser.inputs["guides"][positions],
        **{f"uce.{name}": tensor for name, tensor in start.inputs.items()},
    }
    told = {**eraser.provenance, "settings": eraser.provenance["settings"]["uce"]}
    return _replay(request, eraser.base, inputs, told)


def together(erasers: Sequence[Eraser], request: Request) -> Eraser:
    """The eraser of all concepts of several: all derivations run anew from what they stored."""
    first, config = erasers[0], ReceConfig.model_validate(request.options)
    if config.target_ckpt is not None:
        raise Apart("rece started from a checkpoint")
    start = uce.joined([replace(each, inputs=_start(each.inputs)) for each in erasers], request, config.uce)
    inputs = {
        "concepts": joined_concepts(erasers, request, "concepts"),
        "guides": joined_concepts(erasers, request, "guides"),
        "empty": first.inputs["empty"],
        **joined_kept(erasers, request, _preserved),
        "S": first.inputs["S"],
        **{f"uce.{name}": tensor for name, tensor in start.inputs.items()},
    }
    return _replay(request, first.base, inputs, start.provenance)


def _preserved(request: Request) -> list[str]:
    """The preserved prompts but the empty one, which is preserved in any case."""
    return [prompt for prompt in request.preserve if prompt.strip()]


def _replay(request: Request, base: Base, inputs: dict[str, Tensor], told: Mapping[str, Any]) -> Eraser:
    """Run all epochs; `told` holds the settings of the UCE that it starts from."""
    solving = time.perf_counter()
    config = _published(request, ReceConfig.model_validate(request.options))
    edit = _started(request, base, inputs, told)
    assert config.epochs is not None
    tokens, guides = inputs["concepts"].flatten(0, 1), inputs["guides"].flatten(0, 1)
    scales = {"erase_scale": config.erase_scale, "preserve_scale": config.preserve_scale, "lamb": config.lamb}
    for _ in range(config.epochs):
        derived = _derived(edit, inputs["S"], tokens, guides, config)
        edit = composed(edit, solve(derived, guides, _kept(request, inputs), **scales))
    settings = config.model_dump() | {"uce": None if config.target_ckpt else dict(told["settings"])}
    seconds = {**told["seconds"], "solve": time.perf_counter() - solving}
    return Eraser(request, (edit,), base, inputs, {**told, "settings": settings, "seconds": seconds})


def _started(request: Request, base: Base, inputs: Mapping[str, Tensor], told: Mapping[str, Any]) -> TextEdit:
    """The UCE that it starts from."""
    if "start.left" in inputs:
        return TextEdit(inputs["start.left"], inputs["start.right"])
    (edit,) = uce.only(Eraser(request, (), base, _start(inputs), told), request.names).edits
    assert isinstance(edit, TextEdit)
    return edit


def _start(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[4:]: tensor for name, tensor in inputs.items() if name.startswith("uce.")}


def _published(request: Request, config: ReceConfig) -> ReceConfig:
    unsafe = any(concept.kind == "unsafe" for concept in request.concepts)
    epochs, scale = (3 if len(request.concepts) == 1 else 2, 0.1) if unsafe else (1, 1e-3)
    return config.model_copy(
        update={
            "epochs": epochs if config.epochs is None else config.epochs,
            "regular_scale": scale if config.regular_scale is None else config.regular_scale,
        }
    )


def _kept(request: Request, inputs: Mapping[str, Tensor]) -> Kept:
    """The preserved prompts, and the empty one as often as the reference counts it."""
    times = len(request.concepts) if any(concept.kind == "unsafe" for concept in request.concepts) else 1
    kept = Kept.from_tensors(inputs, inputs["empty"].shape[1])
    kept.add(inputs["empty"] * times**0.5)
    return kept


def _derived(edit: TextEdit, S: Tensor, tokens: Tensor, guides: Tensor, config: ReceConfig) -> Tensor:
    """The embeddings that bring `tokens` (n, d) back through the edited weights, (n, d)."""
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


METHOD = Method(
    name="rece",
    summary="Erases by uce, then again and again the embeddings that would still bring the concept back.",
    paper="https://arxiv.org/abs/2407.12383",
    repository="https://github.com/CharlesGong12/RECE",
    edit="text",
    config=ReceConfig,
    erase=erase,
    only=only,
    together=together,
)


# The edit that an eraser of UCE is, however it is stored: what RECE starts from when it is given one.
#
# UCE writes W_l' = W_l M into every map that reads the text, so of a checkpoint of such weights M is found again:
#
#     M - I = argmin_D sum_l |W_l D - (W_l' - W_l)|^2 = S^+ sum_l W_l^T (W_l' - W_l),    S = sum_l W_l^T W_l


_ELSEWHERE = 0.1  # share of a change that rounding to half precision may put beside the operator
_ROUNDING = 1e-9  # of its largest singular value: what is smaller is rounding in any case


def edit_of_checkpoint(path: str, model: Model, gram: TextGram) -> TextEdit:
    """What an eraser's file does to the text that `model` reads, as one operator.

    Args:
        path: an eraser by uce, or one that `efface import` made of a checkpoint by the reference.
        model: the base.
        gram: its S.

    Raises:
        BadRequest: it does something else.
        WrongBase: it is of another base.
        BadFile: it cannot be read.
    """
    if not path.endswith(".safetensors"):
        raise BadRequest(f"target_ckpt is an eraser's file: make one of {path} by efface import first.")
    eraser = Eraser.load(Path(path))
    check_base(eraser, model)
    texts = [edit for edit in eraser.edits if isinstance(edit, TextEdit)]
    if len(texts) == len(eraser.edits) == 1 and texts[0].stream == model.stream:
        return TextEdit(texts[0].left.double(), texts[0].right.double(), model.stream)
    changes = {edit.parameter: edit for edit in eraser.edits if isinstance(edit, WeightEdit)}
    names = {f"denoiser.{name}" for name in model.text_parameters()}
    if not changes or len(changes) != len(eraser.edits) or not changes.keys() <= names:
        raise BadRequest(f"rece cannot start from {path}: it changes more than what the text's keys and values are.")
    matrix, beside = _operator(changes, model, gram)
    if beside > _ELSEWHERE:
        raise BadRequest(
            f"rece cannot start from {path}: it is not one edit of the text for all layers ({beside:.0%} of its change "
            "is something else), so uce did not make it by replacing."
        )
    left, values, right = torch.linalg.svd(matrix)
    kept = values > max(beside, _ROUNDING) * values[0]  # smaller ones are not told from what is beside
    return TextEdit(left[:, kept] * values[kept], right[kept].T.contiguous(), model.stream)


def _operator(changes: Mapping[str, WeightEdit], model: Model, gram: TextGram) -> tuple[Tensor, float]:
    """M - I (d, d), and the share of the change that it leaves out."""
    cross, size = torch.zeros_like(gram.matrix), 0.0
    for name, weight in model.text_weights():
        if (edit := changes.get(f"denoiser.{name}")) is not None:
            change = edit.value(weight.shape).cpu().double()
            cross.addmm_(weight.cpu().double().T, change)
            size += float(change.square().sum())
    matrix = gram.inverse_root @ (gram.inverse_root.T @ cross)
    # |W D - change|^2 = |change|^2 - tr(D^T cross) at the minimum.
    left_out = max(size - float((matrix * cross).sum()), 0.0)
    return matrix, (left_out / size) ** 0.5
