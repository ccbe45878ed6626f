"""The null-space edit on a tiny Stable Diffusion, one epoch against the published equations written out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import efface
from efface import BadInput, BadRequest, Concept, Eraser, Model, Request, WeightEdit, open_model
from efface.methods.closed_form.everyday import EVERYDAY
from efface.methods.trained.nullspace.config import NullspaceConfig
from efface.methods.trained.nullspace.method import prompts_to_protect
from efface.methods.trained.nullspace.targets import EditableTextEncoder, Targets
from efface.models.families.sd import StableDiffusion
from efface.models.storage.folder import Folder
from efface.tools import latents_of

#: A moment's work. Layer 0 is the first whose inputs nothing changes.
QUICK: dict[str, Any] = {
    "layers": "0,1",
    "epochs": 1,
    "adam_steps": 2,
    "batch_size": 2,
    "sampling_steps": 2,
    "everyday": False,
}
PRESERVE = ["a horse", "blue bird", "a house"]  # 34 tokens that differ, of 64 directions


def nullspace(model: Model, concepts: Any = "cat", to: Any = "dog", **options: Any) -> Eraser:
    return efface.erase(model, concepts, to, preserve=PRESERVE, method="nullspace", **{**QUICK, **options})


def deltas(eraser: Eraser) -> list[Tensor]:
    found: list[Tensor] = []
    for edit in eraser.edits:
        assert isinstance(edit, WeightEdit)
        found.append(edit.value((32, 64)).double())
    return found


def parts(model: Model, **options: Any) -> tuple[EditableTextEncoder, Targets, NullspaceConfig]:
    config = NullspaceConfig.model_validate({**QUICK, **options})
    tower = EditableTextEncoder(model, config.layers, None)
    return tower, Targets(model, tower, latents_of(model), config), config


def protected_inputs(tower: EditableTextEncoder, layer: int) -> Tensor:
    """Inputs of all tokens of the preserved prompts, (h, n)."""
    return tower.keys(tower.ids(PRESERVE), [layer])[layer].flatten(0, 1).double().T


def test_an_epoch_is_the_published_equations(tiny_model: Model) -> None:
    tower, targets, config = parts(tiny_model)
    ids = tower.ids(["cat"])
    targets.draw("cat", tiny_model.embed(["dog"]).tokens, 0, None)
    expected: list[Tensor] = []
    for layer in config.layers:
        k = tower.keys(ids, [layer])[layer]
        z = targets.optimised(ids, layer, k)  # the mean over the images
        K1, V1 = (rows.double()[0].repeat(config.batch_size, 1).T for rows in (k, z))
        U, S, _ = torch.linalg.svd(protected_inputs(tower, layer) @ protected_inputs(tower, layer).T)
        free = S.mean() / 90000 > S
        free[-8:] = True
        P = U[:, free] @ U[:, free].T
        W, one = tower.weight(layer), torch.eye(64, dtype=torch.float64)
        delta = (V1 - W @ K1) @ K1.T @ P @ torch.linalg.inv(K1 @ K1.T @ P + 200 * one)
        tower.write(layer, W + delta)
        expected.append(delta)
    eraser = nullspace(tiny_model)
    for found, delta in zip(deltas(eraser), expected, strict=True):
        assert float(delta.norm()) > 0
        assert float((found - delta).norm() / delta.norm()) < 1e-4
    # Layer 0 is given the same in every epoch, so its rank is that of the prompt's tokens.
    assert nullspace(tiny_model, epochs=2).edits[0].rank <= tiny_model.max_tokens


def test_what_protected_prompts_put_out_stays(tiny_model: Model) -> None:
    eraser = nullspace(tiny_model, lamb=0.1, threshold=1e-12)
    tower, *_ = parts(tiny_model)
    for layer, delta in enumerate(deltas(eraser)):
        before = tower.weight(layer) @ protected_inputs(tower, layer)
        assert float((delta @ protected_inputs(tower, layer)).norm() / before.norm()) < 1e-5
        own = tower.keys(tower.ids(["cat"]), [layer])[layer][0].double().T
        assert float((delta @ own).norm() / (tower.weight(layer) @ own).norm()) > 1e-3
    preserved, gone = tiny_model.embed(PRESERVE).tokens, tiny_model.embed(["cat"]).tokens
    with eraser.attach(tiny_model):
        torch.testing.assert_close(tiny_model.embed(PRESERVE).tokens, preserved, rtol=0, atol=1e-4)
        assert float((tiny_model.embed(["cat"]).tokens - gone).abs().max()) > 1e-2


def test_targets_bring_the_concept_nearer_to_its_guide(tiny_model: Model) -> None:
    guide = tiny_model.embed(["dog"]).tokens
    for layer in (0, 1):
        made: list[Tensor] = []
        for adam_steps in (1, 12):
            tower, targets, _ = parts(tiny_model, adam_steps=adam_steps, lr=0.02)
            ids = tower.ids(["cat"])
            targets.draw("cat", guide, 0, None)
            keys = tower.keys(ids, [layer])[layer]
            made.append(targets.optimised(ids, layer, keys).float())
        tower, targets, _ = parts(tiny_model)  # draws the same pictures, timesteps and noise
        targets.draw("cat", guide, 0, None)
        loss, start = targets.loss(ids, layer), tower.values(layer, keys).expand_as(made[0])
        losses = [float(loss(z.expand(2, -1, -1))) for z in (start, *made)]
        assert losses[0] > losses[1] > losses[2]


def test_values_of_a_layer_stand_in_for_what_it_computes(tiny_model: Model) -> None:
    tower, *_ = parts(tiny_model)
    ids = tower.ids(["a cat", "van gogh"])
    expected = tiny_model.embed(["a cat", "van gogh"]).tokens
    torch.testing.assert_close(tower.text(ids), expected)
    for layer in (0, 1):
        z = tower.values(layer, tower.keys(ids, [layer])[layer]).requires_grad_()
        text = tower.text(ids, layer, z)
        torch.testing.assert_close(text, expected)
        assert float(torch.autograd.grad(text.square().sum(), z)[0].abs().max()) > 0
    skipping = EditableTextEncoder(tiny_model, [0], 1)
    torch.testing.assert_close(skipping.text(ids), tiny_model.embed(["a cat", "van gogh"], clip_skip=1).tokens)


def test_noise_is_added_as_diffusers_does(tiny_model: Model) -> None:
    pytest.importorskip("scipy")
    import diffusers

    parts_of: Any = diffusers
    picture, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    config, t = dict(tiny_model.scheduler_config), torch.tensor([10, 50])
    ddpm, lms = parts_of.DDPMScheduler.from_config(config), parts_of.LMSDiscreteScheduler.from_config(config)
    _, targets, _ = parts(tiny_model)
    assert torch.equal(targets._schedule.add_noise(picture, noise, t), ddpm.add_noise(picture, noise, t))
    in_sigmas = lms.add_noise(picture, noise, t.float())
    torch.testing.assert_close(targets._add_unscaled_noise(picture, noise, t), in_sigmas, rtol=1e-3, atol=1e-3)


def test_erasing_leaves_the_model_as_it_was_and_attaching_is_undone_bitwise(tiny_model: Model) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_model.text_encoder.state_dict().items()}
    eraser = nullspace(tiny_model)
    changed: set[str] = set()
    for moment in ("attached", "after"):
        if moment == "attached":
            with eraser.attach(tiny_model):
                now = {name: tensor.clone() for name, tensor in tiny_model.text_encoder.state_dict().items()}
            changed = {name for name, tensor in before.items() if not torch.equal(tensor, now[name])}
        else:
            now = tiny_model.text_encoder.state_dict()
            assert all(torch.equal(tensor, now[name]) for name, tensor in before.items())
    assert {f"text_encoder.{name}" for name in changed} == {edit.parameter for edit in eraser.edits}  # pyright: ignore
    assert len(changed) == 2
    assert all(name.endswith("mlp.fc2.weight") for name in changed)
    assert not any(module._forward_hooks for module in tiny_model.text_encoder.modules())


def test_the_seed_decides(tiny_model: Model) -> None:
    assert nullspace(tiny_model, seed=3).hash == nullspace(tiny_model, seed=3).hash
    assert nullspace(tiny_model, seed=3).hash != nullspace(tiny_model, seed=4).hash


def test_quirks_are_off_and_change_what_they_say(tiny_model: Model) -> None:
    plain, several = nullspace(tiny_model), nullspace(tiny_model, ["cat", "golf ball"])
    assert not any(plain.provenance["settings"][quirk] for quirk in ("shared_projector", "protect_own", "sigma_noise"))
    assert nullspace(tiny_model, sigma_noise=True).hash != plain.hash
    shared = nullspace(tiny_model, shared_projector=True)
    tower, *_ = parts(tiny_model)
    first = [deltas(eraser)[0] for eraser in (plain, shared)]
    in_use = [float((delta @ protected_inputs(tower, 0)).norm() / delta.norm()) for delta in first]
    assert in_use[1] > 10 * in_use[0]  # the last layer's free directions are in use in the first
    assert nullspace(tiny_model, previous=True).hash == plain.hash
    assert nullspace(tiny_model, ["cat", "golf ball"], previous=True).hash != several.hash
    assert not torch.equal(deltas(plain)[0], deltas(several)[0])
    with pytest.raises(BadRequest, match="cannot be split"):
        several.without("cat")


def test_prompts_with_the_concepts_own_words_are_not_protected() -> None:
    def of(*concepts: Concept, preserve: tuple[str, ...] = (), **options: Any) -> list[str]:
        request = Request(concepts=concepts, preserve=preserve, method="nullspace")
        return prompts_to_protect(request, NullspaceConfig(**options))

    assert of(Concept(name="Blue Jay")) == list(EVERYDAY)  # a blue sky is none
    cat = of(Concept(name="a Cat"))
    assert set(EVERYDAY) - set(cat) == {"a cat sleeping on a couch"}
    assert of(Concept(name="a Cat"), protect_own=True) == list(EVERYDAY)
    assert "a dog running through the grass" not in of(Concept(name="hound", aliases=("dog",)))
    assert of(Concept(name="cat"), preserve=("a tiger",), everyday=False) == ["a tiger"]
    with pytest.warns(UserWarning, match="does not protect .* an erased concept: 'two Cat pictures'"):
        assert of(Concept(name="cat"), preserve=("two Cat pictures", "a tiger"), everyday=False) == ["a tiger"]
    with pytest.raises(BadRequest, match="no prompt to protect"):
        of(Concept(name="cat"), everyday=False)


def test_what_it_cannot_edit_is_said_in_words(tiny_model: Model, tiny_sd: Path) -> None:
    with pytest.raises(BadInput, match=r"reads 2 layers of the text encoder, 0 to 1, and not layer 3; .*layers=0,1"):
        nullspace(tiny_model, layers="1,2,3")
    request = Request.make("cat", "dog", method="nullspace", options=QUICK, preserve=PRESERVE, clip_skip=1)
    with pytest.raises(BadInput, match=r"reads 1 layers"):
        efface.erase(tiny_model, request)

    class Other(StableDiffusion):
        one_clip_encoder = False

    other = Other.from_folder("other", Folder(tiny_sd), torch.device("cpu"), torch.float32)
    with pytest.raises(BadInput, match="one CLIP text encoder"):
        nullspace(other)
    with pytest.raises(BadInput, match="float16"):
        nullspace(open_model(tiny_sd, dtype=torch.float16))
    for options, printed in [
        ({"layers": "2,1"}, "in order"),
        ({"layers": "1,x"}, "layers"),
        ({"layers": -1}, "layers"),
        ({"first_timestep": 60}, "after last_timestep"),
        ({"sampler": "magic"}, "magic"),
    ]:
        with pytest.raises(BadInput, match=printed):
            nullspace(tiny_model, **options)


def test_the_embedded_models_text_encoder_has_the_published_layers() -> None:
    model = open_model("emoji")
    quick: dict[str, Any] = {"epochs": 1, "adam_steps": 1, "batch_size": 1, "sampling_steps": 2}
    eraser = efface.erase(model, "cat", "dog", method="nullspace", **quick)
    assert [edit.parameter for edit in eraser.edits if isinstance(edit, WeightEdit)] == [
        f"text_encoder.encoder.layers.{layer}.mlp.fc2.weight" for layer in (1, 2, 3)
    ]
    assert set(eraser.provenance["directions"].values()) == {128}
    assert 0 < eraser.rank <= model.max_tokens
    plain, house = (model.embed([prompt]).tokens for prompt in ("a cat", EVERYDAY[39]))
    with eraser.attach(model):
        moved, preserved = (model.embed([prompt]).tokens for prompt in ("a cat", EVERYDAY[39]))
    assert F.mse_loss(preserved, house) < 0.1 * F.mse_loss(moved, plain)
