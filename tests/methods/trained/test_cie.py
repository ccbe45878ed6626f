"""CiE against its published equations on two networks, its pictures, and when it stops."""

import copy
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import efface
from efface import BadRequest, Model, Request, RunContext
from efface.generation import Job, Sampling, sample_latents
from efface.methods.trained.cie import Cie, CieConfig
from efface.methods.trained.correlation import Momentum, NoisyImages
from efface.methods.training.loop import Training
from efface.methods.training.run import _accelerated
from efface.methods.training.weights import Copies, frozen
from efface.tools import CachedPictures, latents_of

QUICK: dict[str, Any] = {"iter_break": 3, "images": 2, "sampling_steps": 2}
RELATIVE: dict[str, Any] = {"relative": True, "threshold": -1.0, "reg_beta": 0.9}
ALPHAS = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)


@contextmanager
def objective(model: Model, **options: Any) -> Generator[Cie, None, None]:
    config, request = CieConfig(**{**QUICK, **options}), Request.make("cat", method="cie")
    with frozen(model.denoiser):
        yield Cie(
            model, request, config, NoisyImages(model, request, config, latents_of(model), CachedPictures(model), None)
        )


def train(model: Model, ours: Cie) -> Training:
    with _accelerated(model, ours._config, None) as accelerator:
        training = Training(accelerator, ours)
        training.run()
    return training


OPTIONS: list[dict[str, Any]] = [
    {},
    {"reg_beta": 0.0, "batch_size": 3},
    {"reg_beta": 1e-3, "accumulate_grads": True},
    {**RELATIVE, "batch_size": 3},
    {**RELATIVE, "reg_beta": 0.3, "batch_size": 2, "train_method": "esd-x-strict"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("steps", [1, 2])
def test_losses_and_steps_are_those_of_the_equations(loud_model: Model, steps: int, options: dict[str, Any]) -> None:
    with objective(loud_model, iter_break=steps, lr=1e-4, **options) as ours:
        config, batches = ours._config, list[Any]()
        for step in range(steps):
            with torch.no_grad():
                batches.append(ours.batch(0, step))
        first = ours.loss(batches[0])["loss"]
        training = train(loud_model, ours)
        assert isinstance(ours.weights, Copies)
        found = dict(zip(ours.weights.names, ours.weights.tensors, strict=True))
    student = copy.deepcopy(loud_model.denoiser).requires_grad_(True)
    parts = ("attn2.to_k", "attn2.to_v") if config.train_method == "esd-x-strict" else ("attn2",)
    trained = {name: p for name, p in student.named_parameters() if any(part in name for part in parts)}
    assert found.keys() == trained.keys()
    weight = 1 / len(trained)
    if config.relative:  # the root mean square of the first term's gradient, averaged over the batches
        terms = torch.stack([literal(loud_model, student, batch, trained, 0.0, True) for batch in batches])
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(terms.mean(), [*trained.values()])])
        weight = float(gradient.square().mean().sqrt())
    optimizer = torch.optim.Adam(trained.values(), lr=config.lr)
    loss = torch.zeros(())
    for step, batch in enumerate(batches):
        loss = literal(loud_model, student, batch, trained, config.reg_beta * weight, config.relative)
        if step == 0:
            torch.testing.assert_close(first, loss, rtol=1e-5, atol=0)
        loss.backward()
        optimizer.step()
        if not config.accumulate_grads:
            optimizer.zero_grad()
    assert training.losses["loss"] == pytest.approx(loss.item(), rel=1e-4)
    ends = [torch.cat([some[name].detach().flatten() for name in trained]) for some in (found, trained)]
    start = torch.cat([loud_model.denoiser.get_parameter(name).detach().flatten() for name in trained])
    assert float((ends[0] - ends[1]).norm()) <= 1e-5 * float(ends[1].norm())
    # Adam's first step is the gradient's sign: rounding turns a few around that are next to nothing.
    assert float((ends[1] - start).abs().max()) > 0.9 * config.lr
    assert float(((ends[0] - ends[1]).abs() > 0.1 * config.lr).float().mean()) < 1e-3


def literal(
    model: Model, student: Any, batch: Any, trained: dict[str, Tensor], weight: float, relative: bool
) -> Tensor:
    """L + weight sum_p |theta_p - theta0_p|_1, one sample and one prompt at a time."""
    base, (concept, null) = model.denoiser, model.embed(["cat", ""]).tokens.split(1)
    terms, norms = list[Tensor](), list[Tensor]()
    for x, t in zip(batch["x"].split(1), batch["t"].split(1), strict=True):
        with torch.no_grad():
            truth = base(x, t, encoder_hidden_states=concept).sample - base(x, t, encoder_hidden_states=null).sample
        now = student(x, t, encoder_hidden_states=concept).sample - student(x, t, encoder_hidden_states=null).sample
        norms.append(truth.square().sum().sqrt())
        terms.append((now * truth).sum() / norms[-1] if relative else (now * truth).mean())
    first = torch.stack(terms).sum() / torch.stack(norms).sum() if relative else torch.stack(terms).mean()
    before = dict(base.named_parameters())
    changes = [(parameter - before[name].detach()).abs().sum() for name, parameter in trained.items()]
    return first + weight * torch.stack(changes).sum()


@pytest.mark.parametrize("loud", [1.0, 10.0])
def test_the_relative_correlation_starts_at_one_for_every_concept(loud_model: Model, loud: float) -> None:
    """A concept whose contribution is ten times larger has the same loss."""
    with objective(loud_model, batch_size=3, **RELATIVE) as ours:
        truth = loud * ours.batch(0, 0)["truth"]
        assert float(ours._correlation(truth, truth)) == pytest.approx(1.0, rel=1e-6)
        assert float(ours._correlation(-0.5 * truth, truth)) == pytest.approx(-0.5, rel=1e-6)


def test_the_sign_of_the_correlation_counts(loud_model: Model) -> None:
    """The loss goes below 0: it is no distance."""
    with objective(loud_model, iter_break=30, lr=1e-2, threshold=-1e9) as ours:
        training = train(loud_model, ours)
    assert training.losses["correlation"] < 0
    assert training.step == 30


def test_momentum_is_the_published_statistic() -> None:
    losses = torch.linspace(1, -1, 40).tolist()
    momentum, expected = Momentum(1, 0.2), 0.0
    for n, loss in enumerate(losses):
        expected = loss if n == 0 else 0.9 * expected + 0.1 * loss
        falls = bool(momentum.falls(n + 1, [loss]))
        assert float(momentum.values) == pytest.approx(expected, rel=1e-6)
        assert falls == (expected < 0.2 and n > 10)
    for threshold, at in ((2.0, 12), (1.0, None)):  # the first time is n = 11, and it must be below
        momentum = Momentum(1, threshold)
        stops = [step for step in range(1, 20) if bool(momentum.falls(step, [1.0]))]
        assert stops[:1] == ([] if at is None else [at])


def test_training_stops_when_the_statistic_says_so_and_not_before(tiny_model: Model) -> None:
    options: dict[str, Any] = {**QUICK, "iter_break": 14, "method": "cie"}
    for threshold, steps in ((1e9, 12), (-1e9, 14)):
        eraser = efface.erase(tiny_model, "cat", threshold=threshold, **options)
        assert eraser.provenance["training"][0]["steps"] == steps


def test_pictures_are_the_bases_with_noise_of_the_timestep(tiny_model: Model) -> None:
    config = CieConfig(images=3, sampling_steps=2, batch_size=2, seed=5)
    request = Request.make(["cat", "golf ball"], method="cie")
    pictures = NoisyImages(tiny_model, request, config, latents_of(tiny_model), CachedPictures(tiny_model), None)
    x, t = pictures.noisy(0, 0)
    assert x.shape == (2, 2, 4, 8, 8)
    again, later, other = pictures.noisy(0, 0), pictures.noisy(0, 1), pictures.noisy(1, 0)
    assert torch.equal(again[0], x)
    assert not torch.equal(later[1], t)
    assert not torch.equal(other[1], t)
    sampling = Sampling(sampler="dpm++", steps=2, guidance=7.5)
    drawn = sample_latents(tiny_model, [Job("golf ball", 5 + index) for index in range(3)], sampling)
    noise = torch.randn((2, 2, 4, 8, 8), generator=generator_after(t, 0, 0))
    alphas = ALPHAS[t].float().view(2, 1, 1, 1)
    expected = [alphas[i].sqrt() * drawn + (1 - alphas[i]).sqrt() * noise[1, i] for i in range(2)]
    for mine, candidates in zip(x[1], expected, strict=True):
        assert min(float((mine - candidate).abs().max()) for candidate in candidates) < 1e-4


def generator_after(t: Tensor, slot: int, step: int, seed: int = 5) -> torch.Generator:
    from efface.methods.training.objective import seeded

    generator = seeded(seed, slot, step)
    assert torch.equal(torch.randint(1000, (len(t),), generator=generator), t)
    return generator


def test_every_picture_has_its_turn(tiny_model: Model) -> None:
    config, request = CieConfig(images=4), Request.make("cat", method="cie")
    pictures = NoisyImages(tiny_model, request, config, latents_of(tiny_model), CachedPictures(tiny_model), None)
    rows = [pictures._row(0, place, 4) for place in range(12)]
    assert [sorted(rows[first : first + 4]) for first in (0, 4, 8)] == [[0, 1, 2, 3]] * 3
    assert rows != [pictures._row(1, place, 4) for place in range(12)]


def test_each_concept_uses_all_of_its_images(tiny_model: Model, tmp_path: Path) -> None:
    counts = {"cat": 2, "golf ball": 5}
    for name, count in counts.items():
        (tmp_path / name).mkdir()
        for index in range(count):
            pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    config = CieConfig(datapath=str(tmp_path), repeat_images=True, batch_size=5)
    request = Request.make(list(counts), method="cie")
    pictures = NoisyImages(tiny_model, request, config, latents_of(tiny_model), CachedPictures(tiny_model), None)
    x, t = pictures.noisy(0, 0)
    clean = pictures.state()
    noise = torch.randn(x.shape, generator=generator_after(t, 0, 0, config.seed))
    alphas = ALPHAS[t].float().view(5, 1, 1, 1)
    used = (x - (1 - alphas).sqrt() * noise) / alphas.sqrt()
    rows: list[list[int]] = []
    for row, name in enumerate(counts):
        distances = (used[row][:, None] - clean[f"pictures of {name}"]).flatten(2).norm(dim=2)
        rows.append(distances.argmin(dim=1).tolist())
    assert [sorted(rows[0][first : first + 2]) for first in (0, 2)] == [[0, 1]] * 2
    assert sorted(rows[1]) == [0, 1, 2, 3, 4]


def test_an_interrupted_training_goes_on_with_its_pictures(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from efface.methods.training.checkpoints import Checkpoints

    monkeypatch.setattr(Checkpoints, "seconds", 0.0)
    monkeypatch.setattr(Checkpoints, "share", 0.0)
    options: dict[str, Any] = {**QUICK, **RELATIVE, "iter_break": 20, "threshold": 1e9, "method": "cie"}
    options["accumulate_grads"] = True
    whole = efface.erase(tiny_model, "cat", **options)
    reported: list[tuple[str, int]] = []

    def stop(what: str, done: int, total: int, note: str = "") -> None:
        reported.append((what, done))
        if (what, done) == ("cat", 5):
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        efface.erase(tiny_model, "cat", context=RunContext(tmp_path, stop), **options)
    assert reported[0] == ("pictures of cat", 2)
    reported.clear()

    def listen(what: str, done: int, total: int, note: str = "") -> None:
        reported.append((what, done))

    resumed = efface.erase(tiny_model, "cat", context=RunContext(tmp_path, listen), **options)
    assert [done for what, done in reported if what == "cat"] == list(range(5, 13))
    assert all(what == "cat" for what, _ in reported)
    assert resumed.hash == whole.hash


def test_pictures_that_are_drawn_are_kept_when_drawing_is_interrupted(tiny_model: Model, tmp_path: Path) -> None:
    options: dict[str, Any] = {**QUICK, "images": 35, "iter_break": 1, "method": "cie"}
    whole = efface.erase(tiny_model, "cat", **options)
    reported: list[int] = []

    def stop(what: str, done: int, total: int, note: str = "") -> None:
        if what == "pictures of cat":
            reported.append(done)
        if reported == [32]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        efface.erase(tiny_model, "cat", context=RunContext(tmp_path, stop), **options)
    assert efface.erase(tiny_model, "cat", context=RunContext(tmp_path, stop), **options).hash == whole.hash
    assert reported == [32, 35]


def test_defaults_are_the_published_ones() -> None:
    config = CieConfig()
    assert (config.lr, config.threshold, config.reg_beta, config.iter_break) == (1e-6, 5e-5, 1e-5, 1000)
    assert (config.accumulate_grads, config.relative, config.train_method) == (False, False, "esd-x")
    refused: list[dict[str, Any]] = [{"lr": 0}, {"images": 0}, {"reg_beta": -1}, {"iter_break": 0}]
    for wrong in refused:
        with pytest.raises(BadRequest, match=next(iter(wrong))):
            CieConfig(**wrong)


def test_concepts_are_given_back_to_the_bit(tiny_model: Model) -> None:
    options: dict[str, Any] = {**QUICK, "lr": 1e-3, "method": "cie"}
    cat, ball = (efface.erase(tiny_model, name, **options) for name in ("cat", "golf ball"))
    both = efface.erase(tiny_model, ["cat", "golf ball"], **options)
    assert both.without("cat").hash == efface.compose(cat, ball).without("cat").hash == ball.hash
