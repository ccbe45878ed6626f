"""Concept ablation against its equations on two networks, its parameter groups on SD 1.4, and its settings."""

import copy
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import efface
from efface import BadInput, BadRequest, Eraser, Model, Request, WeightEdit
from efface.eraser.base_check import base_of
from efface.methods.trained.ablate.augment import unchanged_view
from efface.methods.trained.ablate.config import PUBLISHED, AblateConfig
from efface.methods.trained.ablate.method import Ablate
from efface.methods.trained.ablate.weights import ParameterGroup, TokenRows, group_parameters
from efface.methods.training.checkpoints import Checkpoints
from efface.methods.training.loop import Training
from efface.methods.training.objective import Batch, seeded
from efface.methods.training.run import _accelerated
from efface.methods.training.weights import Copies, frozen
from efface.models.denoising import NoiseSchedule
from efface.tools import CachedPictures

SMALL: dict[str, Any] = {
    "train_max_steps": 3, "train_size": 4, "batch_size": 2, "sampling_steps": 2, "base_lr": 1e-3, "aug": False,
}  # fmt: skip


def test_parameter_groups_are_the_published_ones_on_sd14(sd14: Any) -> None:
    every = [name for name, _ in sd14.named_parameters()]
    groups: dict[str, tuple[str, ...]] = {
        name: group_parameters(sd14, name)  # pyright: ignore[reportArgumentType]
        for name in ("cross-attn", "attn", "full-weight")
    }
    assert {name: len(names) for name, names in groups.items()} == {"cross-attn": 32, "attn": 160, "full-weight": 686}
    assert set(groups["full-weight"]) == set(every)
    readers = ("attn2.to_k.weight", "attn2.to_v.weight")
    assert set(groups["cross-attn"]) == {name for name in every if name.endswith(readers)}
    attention = [name for name in every if ".attn1." in name or ".attn2." in name]
    assert set(groups["attn"]) == set(attention)
    assert {name.split(".attn")[1][2:] for name in attention} == {
        "to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias",
    }  # fmt: skip


@contextmanager
def objective(
    model: Model, kind: str = "object", guide: Any = "dog", preserved: type[Ablate] = Ablate, **options: Any
) -> Generator[tuple[Any, Any], None, None]:
    """An objective, and the accelerator that it can be trained with."""
    config = AblateConfig(**{**SMALL, **options})
    request = Request.make("cat", guide or (), kind=kind, method="ablate")
    with frozen(model.denoiser), frozen(model.text_encoder), _accelerated(model, config, None) as accelerator:
        yield preserved(model, request, config, CachedPictures(model), looks), accelerator


def looks(pictures: Sequence[Any], original: Path) -> list[bool]:
    """A detector that takes some pictures for copies."""
    return [int(picture.sum()) % 5 == 0 for picture in pictures]


class Given(Ablate):
    """Trained on one batch that is made beforehand, whose latents do not all count."""

    given: Batch | None = None

    def batch(self, slot: int, step: int) -> Batch:
        if self.given is None:
            batch = super().batch(slot, step)
            mask = torch.zeros_like(batch["mask"])
            mask[0, :, 2:5, 1:7] = 1
            mask[1, :, 3:4, 3:5] = 1
            self.given = {**batch, "mask": mask}
        return self.given


def heeds_text(model: Model) -> None:
    """Random weights hardly do: predictions for two prompts are so near that rounding shows in their difference."""
    for name, parameter in model.denoiser.named_parameters():
        if "attn2.to_v" in name:
            parameter.data *= 30


class PublishedAttention:
    """Attention as both codes have it: nothing is learned from the keys and values of token 0 of a text."""

    def __call__(self, attn: Any, x: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any) -> Tensor:
        is_cross = encoder_hidden_states is not None
        context = encoder_hidden_states if encoder_hidden_states is not None else x
        q, k, v = attn.to_q(x), attn.to_k(context), attn.to_v(context)
        if is_cross:
            modifier = torch.ones_like(k)
            modifier[:, :1, :] = 0
            k = modifier * k + (1 - modifier) * k.detach()
            v = modifier * v + (1 - modifier) * v.detach()
        q, k, v = (attn.head_to_batch_dim(part) for part in (q, k, v))
        out = torch.einsum("bij,bjd->bid", (torch.einsum("bid,bjd->bij", q, k) * attn.scale).softmax(-1), v)
        return attn.to_out[0](attn.batch_to_head_dim(out))


VARIANTS: list[dict[str, Any]] = [
    {"parameter_group": group, "loss_type_reverse": loss, "regularization": prior}
    for group in ("cross-attn", "attn", "full-weight", "embedding")
    for loss in ("model-based", "noise-based")
    for prior in (False, True)
] + [{"teacher": "frozen"}, {"prior_loss_weight": 0.3, "regularization": True, "max_grad_norm": None}]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_loss_and_first_step_are_those_of_the_equations(
    tiny_model: Model, tmp_path: Path, options: dict[str, Any]
) -> None:
    """The published step on the same noisy latents: another network and text encoder, one forward pass a sample."""
    prompts = tmp_path / "anchors.txt"
    prompts.write_text("a photo of a dog\n")
    heeds_text(tiny_model)
    settings: dict[str, Any] = {
        "hflip": False,
        "train_max_steps": 1,
        "base_lr": 1e-4,
        "prompts": str(prompts),
        **options,
    }
    with objective(tiny_model, preserved=Given, **settings) as (ours, accelerator):
        with torch.no_grad():
            batch = ours.batch(0, 0)
        found = ours.loss(batch)["loss"]
        Training(accelerator, ours).run()
        config, stepped = ours._config, flat(ours.weights.parameters())
    student: Any = copy.deepcopy(tiny_model.denoiser)
    encoder: Any = copy.deepcopy(tiny_model.text_encoder)
    student.set_attn_processor(PublishedAttention())
    table = encoder.get_input_embeddings().weight
    if isinstance(ours.weights, TokenRows):
        trained = [table]
    else:
        named = dict(student.named_parameters())
        trained = [named[name] for name in ours.weights.names]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=1e-4 * 2)  # base_lr for each of two samples
    loss = literal(tiny_model, student, encoder, batch, config)
    loss.backward()
    rows = ours.weights._ids if isinstance(ours.weights, TokenRows) else None
    if rows is not None:  # the other rows' gradients are set to zero
        spared = torch.ones(len(table), dtype=torch.bool).index_fill(0, rows, False)
        table.grad[spared] = 0
    if config.max_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
    before = flat([table[rows]] if rows is not None else trained)
    optimizer.step()
    expected = flat([table[rows]] if rows is not None else trained)
    torch.testing.assert_close(found, loss, rtol=5e-5, atol=0)
    assert float((stepped - expected).norm()) <= 1e-5 * float(expected.norm())
    # AdamW's first step is the gradient's sign: rounding turns a few around that are next to nothing.
    assert float((expected - before).abs().max()) > 0.9 * 2e-4
    assert float(((stepped - expected).abs() > 2e-5).float().mean()) < 2e-3


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def literal(model: Model, student: Any, encoder: Any, batch: Batch, config: AblateConfig) -> Tensor:
    """Masked loss of the concept's samples, and the prior's on the rest, as both codes have them."""

    def read(prompt: str) -> Tensor:
        ids = model.tokenizer([prompt], padding="max_length", max_length=12, truncation=True, return_tensors="pt")
        return encoder(ids["input_ids"])[0]

    concept, anchor = "a photo of a cat", "a photo of a dog"
    masks, samples = batch["mask"], list(zip(batch["x"].split(1), batch["t"].split(1), strict=True))
    ablation = prior = torch.zeros(())
    for index, (x, t) in enumerate(samples):
        noise = batch["target"][index : index + 1]
        if index >= len(masks):
            predicted = student(x, t, read(anchor)).sample
            prior = prior + (predicted - noise).square().mean() / len(masks)
            continue
        target = noise
        if config.loss_type_reverse == "model-based":
            with torch.no_grad():
                target = student(x, t, read(anchor)).sample
        squares = (student(x, t, read(concept)).sample - target).square() * masks[index : index + 1]
        ablation = ablation + squares.sum() / masks[index].sum() / len(masks)
    return ablation + config.prior_loss_weight * prior


class Recording(Ablate):
    """Notes the prompts of each batch: the concept's first, then the prior's."""

    def batch(self, slot: int, step: int) -> Batch:
        prepare, self.read = self._reader.prepare, list[list[str]]()
        self._reader.prepare = lambda prompts: (self.read.append(list(prompts)), prepare(prompts))[1]
        self.anchors = [self._image(slot, step * self._chosen.batch_size + i) for i in range(self._chosen.batch_size)]
        try:
            return super().batch(slot, step)
        finally:
            self._reader.prepare = prepare


def becomes(kind: str, anchor: str, target: str) -> set[str]:
    """What an anchor's caption may become, without a prefix, as the published codes write it."""
    if kind == "object":
        return {anchor.replace("dog", "cat")}
    if kind == "memorised":
        return {target}
    if kind == "unsafe":
        return {f"cat, {anchor}", f"in cat style, {anchor}", f"{anchor}, cat"}
    return {
        form.format(words)
        for words in ("cat", "cat cat")
        for form in (
            f"{anchor}, in the style of {{}}",
            f"{{}} inspired painting, {anchor}",
            f"in {{}}'s style, {anchor}",
        )
    }


@pytest.mark.parametrize("kind", ["object", "style", "unsafe", "memorised"])
def test_the_loss_of_each_kind_is_that_of_its_captions_and_masks(tiny_model: Model, tmp_path: Path, kind: str) -> None:
    """With `aug`, from the prompts that were drawn, one forward pass a sample."""
    heeds_text(tiny_model)
    options: dict[str, Any] = {
        "aug": True,
        "batch_size": 6,
        "train_size": 12,
        "sampling_steps": 1,
        "parameter_group": "cross-attn",
        "regularization": kind in ("unsafe", "memorised"),
    }
    if kind == "memorised":
        Image.new("RGB", (16, 16)).save(tmp_path / "picture.png")
        options["mem_impath"] = str(tmp_path / "picture.png")
    guide = "dog" if kind == "object" else None
    with objective(tiny_model, kind, guide, Recording, **options) as (ours, _):
        with torch.no_grad():
            batch = ours.batch(0, 0)
        found = ours.loss(batch)["loss"]
    # The concept's prompts are read after the teacher's anchors.
    anchors, ablated, *prior = ours.read
    others = [prompt for prompts in prior for prompt in prompts]
    assert anchors == [shot.caption for shot in ours.anchors]
    prefixes = ("a far away ", "very small ", "zoomed in ", "close up ", "")
    assert any(prompt.startswith(prefixes[:-1]) for prompt in ablated)
    targets = ours.notes["targets"]  # of a memorised picture, other prompts that draw it too
    for index, (anchor, prompt) in enumerate(zip(anchors, ablated, strict=True)):
        expected = becomes(kind, anchor, targets[index % len(targets)])
        assert prompt in {prefix + words for prefix in prefixes for words in expected}
    masks = batch["mask"]
    small = [prompt.startswith(prefixes[:2]) for prompt in ablated]
    assert [bool((mask == 0).any()) for mask in masks] == small
    unet, total = tiny_model.denoiser, torch.zeros(())
    pairs = list(zip(batch["x"].split(1), batch["t"].split(1), strict=True))
    with torch.no_grad():
        for (x, t), anchor, prompt, mask in zip(pairs, anchors, ablated, masks, strict=False):
            e = [unet(x, t, tiny_model.embed([text], truncate=True).tokens).sample[0] for text in (prompt, anchor)]
            total += ((e[0] - e[1]).square() * mask).sum() / mask.sum() / 6
        for (x, t), text, noise in zip(pairs[6:], others, batch["target"][6:], strict=True):
            total += (unet(x, t, tiny_model.embed([text], truncate=True).tokens).sample[0] - noise).square().mean() / 6
    torch.testing.assert_close(found.detach(), total, rtol=1e-4, atol=0)


@pytest.mark.parametrize("group", ["cross-attn", "embedding"])
@pytest.mark.parametrize("teacher", ["current", "frozen"])
def test_the_teacher_is_the_model_as_it_is_by_now_or_the_base(
    tiny_model: Model, group: ParameterGroup, teacher: Any
) -> None:
    with objective(tiny_model, teacher=teacher, parameter_group=group) as (ours, _), torch.no_grad():
        for parameter in ours.weights.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=seeded(1)), alpha=0.3)
        x, t = torch.randn(2, 4, 8, 8, generator=seeded(2)), torch.tensor([3, 700])
        prompts = ["a cat", "a photo of a cat"]  # with tokens that `embedding` trains
        found = ours._anchor_prediction(x, t, prompts)
        eraser = Eraser(Request.make("cat"), ours.weights.edits(), base_of(tiny_model, tiny_model.embed(["cat"])))
        base = tiny_model.denoiser(x, t, tiny_model.embed(prompts).tokens).sample
        with eraser.attach(tiny_model):
            edited = tiny_model.denoiser(x, t, tiny_model.embed(prompts).tokens).sample
    assert float((edited - base).abs().max()) > 1e-3
    torch.testing.assert_close(found, edited if teacher == "current" else base, rtol=1e-4, atol=1e-5)


def made(model: Model, group: Any = "cross-attn", concepts: Any = "cat", **options: Any) -> Eraser:
    settings: dict[str, Any] = {**SMALL, "parameter_group": group, **options}
    return efface.erase(model, concepts, "dog", method="ablate", **settings)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_pictures_are_noised_as_the_equation_says(tiny_model: Model, prediction: str) -> None:
    alphas = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
    picture = torch.rand(3, 16, 16, generator=seeded(5)) * 2 - 1
    with objective(tiny_model) as (ours, _), torch.no_grad():
        ours._schedule = NoiseSchedule({**tiny_model.scheduler_config, "prediction_type": prediction})
        x, t, target = ours._noised([unchanged_view(picture, 2)] * 3, seeded(6))
        generator, found = seeded(6), tiny_model.vae.encode(picture.expand(3, -1, -1, -1)).latent_dist
        z = found.mean + found.std * torch.randn(3, 4, 8, 8, generator=generator)
        z = z * tiny_model.vae.config.scaling_factor
        noise, steps = torch.randn(3, 4, 8, 8, generator=generator), torch.randint(1000, (3,), generator=generator)
    a = alphas[steps].view(-1, 1, 1, 1)
    assert torch.equal(t, steps)
    torch.testing.assert_close(x.double(), a.sqrt() * z + (1 - a).sqrt() * noise, rtol=1e-4, atol=1e-5)
    velocity = a.sqrt() * noise - (1 - a).sqrt() * z
    torch.testing.assert_close(
        target.double(), noise.double() if prediction == "epsilon" else velocity, rtol=1e-4, atol=1e-5
    )


def test_defaults_are_the_published_ones_of_each_kind(tiny_model: Model, tmp_path: Path) -> None:
    config = AblateConfig()
    assert config.chosen("object") == PUBLISHED["object"]
    published = {
        kind: (c.parameter_group, c.train_max_steps, c.base_lr, c.batch_size, c.regularization, c.aug)
        for kind, c in PUBLISHED.items()
    }
    assert published == {
        "object": ("cross-attn", 100, 2e-6, 4, False, True),
        "style": ("cross-attn", 100, 2e-6, 4, False, False),
        "memorised": ("full-weight", 400, 5e-7, 2, True, False),
        "unsafe": ("attn", 400, 8e-6, 4, True, False),
    }
    assert AblateConfig(base_lr=1e-4, aug=False).chosen("object").base_lr == 1e-4
    assert AblateConfig(parameter_group="full").parameter_group == "full-weight"  # pyright: ignore[reportArgumentType]
    for regularization, samples in ((None, 4 + 4), (False, 4)):
        with (
            objective(tiny_model, "unsafe", None, batch_size=None, regularization=regularization) as (ours, _),
            torch.no_grad(),
        ):
            assert len(ours.batch(0, 0)["x"]) == samples
    # The published runs' two processes are two forward passes a step here. Unsafe themes' code doubles the rate for the
    # prior: 4e-6 times 4 samples, 2 processes and 2.
    Image.new("RGB", (16, 16)).save(tmp_path / "picture.png")
    defaults: dict[str, Any] = {"batch_size": None, "base_lr": None, "aug": None, "gradient_accumulation_steps": 2}
    for kind, rate in {"object": 1.6e-5, "style": 1.6e-5, "memorised": 2e-6, "unsafe": 6.4e-5}.items():
        picture: dict[str, Any] = {"mem_impath": str(tmp_path / "picture.png")} if kind == "memorised" else {}
        guide = "dog" if kind == "object" else None
        with objective(tiny_model, kind, guide, **defaults, **picture) as (ours, _):
            assert ours.optimizer().param_groups[0]["lr"] == pytest.approx(rate)
    with objective(tiny_model, batch_size=4, gradient_accumulation_steps=2, base_lr=2e-6) as (ours, _):
        assert ours.optimizer().param_groups[0]["lr"] == pytest.approx(1.6e-5)
        assert ours.optimizer().param_groups[0]["weight_decay"] == 0.01
        assert ours.clip_norm == 1.0
    with objective(tiny_model, scale_lr=False) as (ours, _):
        assert ours.optimizer().param_groups[0]["lr"] == 1e-3


def test_prompts_are_read_and_whole_pictures_encoded_once(tiny_model: Model) -> None:
    read, encoded = list[int](), list[int]()
    tiny_model.text_encoder.register_forward_pre_hook(lambda module, args, kwargs: read.append(1), with_kwargs=True)
    tiny_model.vae.encoder.register_forward_pre_hook(lambda module, args: encoded.append(len(args[0])))
    with objective(tiny_model, train_size=2, regularization=True) as (ours, _), torch.no_grad():
        read.clear()
        for step in range(20):
            ours.batch(0, step)
    assert len(read) == 4  # two anchors, and the concept's for each
    assert encoded == [1] * 4  # two pictures and their mirror images


def test_only_the_concepts_tokens_are_trained_in_the_embedding_group(tiny_model: Model) -> None:
    prompts = ["a dog in a house", "golf ball", "a red cat", "cat"]
    plain = tiny_model.embed(prompts).tokens
    for clip_skip in (None, 1):
        request = Request.make("cat", "dog", method="ablate", clip_skip=clip_skip)
        request = request.model_copy(update={"options": {**SMALL, "parameter_group": "embedding"}})
        eraser = efface.erase(tiny_model, request)
        (edit,) = eraser.edits
        assert isinstance(edit, WeightEdit)
        assert (edit.parameter.rpartition(".")[0].rpartition(".")[2], edit.rank) == ("token_embedding", 1)
        with eraser.attach(tiny_model):
            edited = tiny_model.embed(prompts).tokens
        assert torch.equal(edited[:2], plain[:2])
        assert not torch.allclose(edited[2:], plain[2:], atol=1e-4)
        assert torch.equal(tiny_model.embed(prompts).tokens, plain)


def test_trained_rows_are_read_as_the_text_encoder_reads_them(tiny_model: Model) -> None:
    for skip in (0, 1):
        rows = TokenRows(tiny_model, ["golf ball"], skip)
        prompts = ["a golf ball in the car", "ball"]
        expected = tiny_model.embed(prompts, clip_skip=skip).tokens
        torch.testing.assert_close(rows.read(rows.prepare(prompts)), expected, rtol=1e-5, atol=1e-6)
        assert len(rows.rows) == 2
        assert {name for name, _ in rows.named_parameters()} == {"rows"}


def test_a_concept_trained_with_others_is_what_it_is_alone(tiny_model: Model) -> None:
    both = made(tiny_model, concepts=["cat", "golf ball"])
    alone = made(tiny_model, concepts="golf ball")
    assert both.only("golf ball").hash == both.without("cat").hash == alone.hash
    composed = efface.compose(made(tiny_model), alone)
    assert composed.hash == both.hash
    assert composed.without("cat").hash == alone.hash
    reported: Mapping[str, Any] = both.provenance["ablated"]
    assert set(reported) == {"cat", "golf ball"}
    assert "a photo of a dog" in reported["cat"]["anchors"]
    assert reported["golf ball"]["targets"] == ["golf ball"]


@pytest.mark.parametrize("kind", ["style", "unsafe"])
def test_the_other_kinds_have_an_anchor_of_their_own(tiny_model: Model, kind: str) -> None:
    settings: dict[str, Any] = {**SMALL, "parameter_group": "cross-attn"}
    eraser = efface.erase(tiny_model, "cat", kind=kind, method="ablate", **settings)
    assert eraser.hash != made(tiny_model).hash
    assert any(
        ("painting" if kind == "style" else "person") in c for c in eraser.provenance["ablated"]["cat"]["anchors"]
    )


def test_training_nears_the_anchor(tiny_model: Model) -> None:
    settings: dict[str, Any] = {"train_max_steps": 40, "base_lr": 5e-3, "scale_lr": False, "teacher": "frozen"}
    with objective(tiny_model, preserved=Given, **settings) as (ours, accelerator):
        with torch.no_grad():
            batch = ours.batch(0, 0)
        before = ours.loss(batch)["loss"].item()
        Training(accelerator, ours).run()
        assert ours.loss(batch)["loss"].item() < before / 2


def test_batches_depend_on_slot_and_step_alone(tiny_model: Model) -> None:
    options: dict[str, Any] = {"aug": True, "regularization": True}
    with torch.no_grad():
        with objective(tiny_model, **options) as (ours, _):
            first, again, other = ours.batch(0, 1), ours.batch(0, 1), ours.batch(0, 2)
        with objective(tiny_model, **options) as (ours, _):
            anew = ours.batch(0, 1)
    assert all(torch.equal(first[name], again[name]) and torch.equal(first[name], anew[name]) for name in first)
    assert not torch.equal(first["x"], other["x"])
    assert (len(first["x"]), len(first["mask"])) == (4, 2)


def test_the_model_is_left_as_it_was(tiny_model: Model) -> None:
    parts = (tiny_model.denoiser, tiny_model.text_encoder, tiny_model.vae)
    before = [{name: tensor.clone() for name, tensor in part.state_dict().items()} for part in parts]
    for group in ("cross-attn", "embedding"):
        made(tiny_model, group)
    for part, tensors in zip(parts, before, strict=True):
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in part.state_dict().items())
        assert all(parameter.grad is None for parameter in part.parameters())
        assert not any(module._forward_hooks for module in part.modules())


class Stop(Exception):  # noqa: N818
    """Ends a training, as a crash does."""


@pytest.mark.parametrize("group", ["attn", "embedding"])
def test_a_killed_training_ends_as_one_that_was_not(
    tiny_model: Model, tmp_path: Path, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoints, "seconds", 0.0)
    monkeypatch.setattr(Checkpoints, "share", 0.0)
    prompts = tmp_path / "anchors.txt"
    prompts.write_text("a photo of a dog\na dog\n")
    options: dict[str, Any] = {"aug": True, "regularization": True, "prompts": str(prompts)}
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "whole"))
    whole = made(tiny_model, group, **options)
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "killed"))
    steps: list[int] = []
    drawn: list[int] = []

    def tell(what: str, done: int, total: int, note: str = "") -> None:
        if what == "anchor pictures of cat":
            drawn.append(done)
            if drawn == [1]:
                raise Stop
        if what == "cat":
            steps.append(done)
            if steps == [1, 2]:
                raise Stop

    work = efface.RunContext(tmp_path / "t", tell)
    for _ in range(2):  # killed at its first picture, and at its second step
        with pytest.raises(Stop):
            made(tiny_model, group, context=work, **options)
    prompts.write_text("a dog\n")
    with pytest.raises(BadInput, match="--force"):
        made(tiny_model, group, context=work, **options)
    prompts.write_text("a photo of a dog\na dog\n")
    assert made(tiny_model, group, context=work, **options).hash == whole.hash
    assert steps == [1, 2, 2, 3]


def test_what_cannot_be_ablated_is_refused_in_one_line(tiny_model: Model, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"")
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "others.txt").write_text("a photo of a horse\n")
    (tmp_path / "columns.csv").write_text("caption\na dog\n")
    memorised: dict[str, Any] = {"kind": "memorised", "mem_impath": str(picture)}
    wrong: list[tuple[str, Any, dict[str, Any]]] = [
        ("--to dog", (), {}),
        ("'style', 'memorised'", "dog", {"kind": "weather"}),
        ("mem_impath=FILE", (), {"kind": "memorised"}),
        ("no such file", (), {"kind": "memorised", "mem_impath": str(tmp_path / "none.png")}),
        ("--judge sscd:FILE", (), memorised),
        ("add --kind memorised", "dog", {"mem_impath": str(picture)}),
        ("not for memorised", (), {**memorised, "parameter_group": "embedding"}),
        ("no anchor prompt", "dog", {"prompts": str(tmp_path / "empty.txt")}),
        ("no-such.txt", "dog", {"prompts": str(tmp_path / "no-such.txt")}),
        ("contains 'dog'", "dog", {"prompts": str(tmp_path / "others.txt")}),
        ("column 'prompt'", "dog", {"prompts": str(tmp_path / "columns.csv")}),
        ("only one of them", "dog", {"prompts": "a.txt", "prompt_gen_model": "llama"}),
        ("causal language model", "dog", {"prompt_gen_model": str(tmp_path / "llama")}),
        ("not a folder", "dog", {"datapath": str(picture)}),
        ("sampler", "dog", {"sampler": "fast"}),
        ("parameter_group", "dog", {"parameter_group": "crossattn"}),
    ]
    for printed, to, options in wrong:
        with pytest.raises(BadInput) as caught:
            efface.erase(tiny_model, "cat", to, method="ablate", **{**SMALL, **options})
        assert printed in str(caught.value), caught.value
        assert "\n" not in str(caught.value)
    with pytest.raises(BadRequest, match="one by one"):
        efface.erase(tiny_model, ["cat", "house"], method="ablate", **{**SMALL, **memorised})


def test_weights_that_are_whole_are_copies(tiny_model: Model) -> None:
    with objective(tiny_model, parameter_group="full-weight") as (ours, _):
        assert isinstance(ours.weights, Copies)
        assert len(ours.weights.names) == len(list(tiny_model.denoiser.parameters()))
