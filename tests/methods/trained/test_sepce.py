"""SepCE against its published equations; what its changes leave alone, and how they come off again."""

import copy
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

import efface
from efface import BadInput, BadRequest, Eraser, Model, Request, RunContext, WeightEdit
from efface.generation.jobs import Job, Sampling
from efface.generation.sampling import sample
from efface.methods.trained.correlation import NoisyImages
from efface.methods.trained.sepce import Sepce, SepceConfig
from efface.methods.trained.sepce_basis import Confined, bases, free_variables, null_space, protected_prompts
from efface.methods.training.checkpoints import Checkpoints
from efface.methods.training.loop import Training
from efface.methods.training.run import _accelerated
from efface.methods.training.weights import frozen
from efface.tools import CachedPictures, latents_of

#: Text of the tiny model is 32 wide and 12 tokens long: two concepts leave 32 - 12 - 11 = 9 directions.
QUICK: dict[str, Any] = {"iter_break": 3, "images": 2, "sampling_steps": 2, "scale_factor": 1e-2}
BOTH = ["cat", "golf ball"]


@contextmanager
def objective(
    model: Model, concepts: Sequence[str], spread: float = 0.3, **options: Any
) -> Generator[Sepce, None, None]:
    """For the first concept, or jointly for all, with coefficients of some spread."""
    config, request = SepceConfig(**{**QUICK, **options}), Request.make(concepts, method="sepce")
    part = request if config.training == "joint" else request.keeping(concepts[:1])
    found = bases(model, request, config.tolerance, config.basis == "published")
    with frozen(model.denoiser):
        pictures = NoisyImages(model, part, config, latents_of(model), CachedPictures(model), None)
        ours = Sepce(model, part, config, [found[name] for name in part.names], pictures, "")
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for coefficients in ours._trained.coefficients:
                coefficients += spread * torch.randn(coefficients.shape, generator=generator)
        yield ours


def train(model: Model, ours: Sepce, tell: Any = lambda step, losses: None) -> Training:
    with _accelerated(model, ours._config, None) as accelerator:
        training = Training(accelerator, ours, None, tell)
        training.run()
    return training


def erase(model: Model, concepts: Any, **options: Any) -> Eraser:
    chosen: dict[str, Any] = {**QUICK, **options}
    return efface.erase(model, concepts, method="sepce", **chosen)


VARIANTS: list[dict[str, Any]] = [
    {},
    {"reg_beta": 0.1, "batch_size": 2},
    {"reg_beta": 0.1, "accumulate_grads": True},
    {"basis": "published"},
    {"training": "joint"},
    {"training": "joint", "reg_beta": 0.1, "balance": "max", "batch_size": 2},
    {"training": "joint", "reg_beta": 0.1, "accumulate_grads": True, "basis": "published"},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("steps", [1, 2])
def test_losses_and_steps_are_those_of_the_equations(loud_model: Model, steps: int, options: dict[str, Any]) -> None:
    with objective(loud_model, BOTH, iter_break=steps, lr=1e-3, **options) as ours:
        config, batches = ours._config, list[Any]()
        for step in range(steps):
            with torch.no_grad():
                batches.append(ours.batch(0, step))
        start = [coefficients.detach().clone() for coefficients in ours._trained.coefficients]
        first = ours.loss(batches[0])["loss"]
        training = train(loud_model, ours)
        found = torch.cat([coefficients.detach().flatten() for coefficients in ours._trained.coefficients])
    with torch.no_grad():
        request = Request.make(BOTH)
        directions = list(bases(loud_model, request, config.tolerance, config.basis == "published").values())
    trained = [coefficients.requires_grad_() for coefficients in start]
    before = torch.cat([coefficients.detach().flatten() for coefficients in trained])
    optimizer, loss = torch.optim.Adam(trained, lr=config.lr), torch.zeros(())
    for step, batch in enumerate(batches):
        loss = literal(loud_model, trained, directions, batch, config)
        if step == 0:
            torch.testing.assert_close(first, loss, rtol=1e-5, atol=0)
        loss.backward()
        optimizer.step()
        if not config.accumulate_grads:
            optimizer.zero_grad()
    assert training.losses["loss"] == pytest.approx(loss.item(), rel=1e-4)
    expected = torch.cat([coefficients.detach().flatten() for coefficients in trained])
    assert float((found - expected).norm()) <= 1e-5 * float(expected.norm())
    assert float((expected - before).abs().max()) > 0.9 * config.lr
    assert float(((found - expected).abs() > 0.1 * config.lr).float().mean()) < 1e-3


def literal(
    model: Model, trained: Sequence[Tensor], directions: Sequence[Tensor], batch: Any, config: SepceConfig
) -> Tensor:
    """The published losses, one sample and one prompt at a time, through both predictions."""
    base, names = model.denoiser, model.text_parameters()
    concepts = len(trained) // len(names)
    (null,), texts = model.embed([""]).tokens.split(1), model.embed(BOTH).tokens.split(1)
    scaled = [config.scale_factor * each.float() for each in directions]
    weights = {
        name: base.get_parameter(name).detach()
        + sum((trained[k * len(names) + at] @ scaled[k] for k in range(concepts)), torch.zeros(()))
        for at, name in enumerate(names)
    }

    def student(x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return functional_call(base, weights, (x, t), {"encoder_hidden_states": text}).sample

    losses: list[Tensor] = []
    norms: list[Tensor] = []
    for k in range(concepts):
        rows = range(k * config.batch_size, (k + 1) * config.batch_size)
        products: list[Tensor] = []
        for row in rows:
            x, t = batch["x"][row : row + 1], batch["t"][row : row + 1]
            with torch.no_grad():
                truth = base(x, t, encoder_hidden_states=texts[k]).sample
                truth = truth - base(x, t, encoder_hidden_states=null).sample
            products.append((student(x, t, texts[k]) - student(x, t, null)) * truth)
        product = torch.cat(products)
        own = trained[k * len(names) : (k + 1) * len(names)]
        if config.training == "separate":
            sizes = [(coefficients @ scaled[k]).abs().sum() for coefficients in own]
            return product.mean() + config.reg_beta * sum(sizes, torch.zeros(())) / len(sizes)
        losses.append(product.mean())
        norms.append(product.detach().pow(2).sum().sqrt())
    total = torch.zeros(())
    for k, loss in enumerate(losses):
        weight = (max(norms) if config.balance == "max" else norms[0]) / norms[k]
        own = trained[k * len(names) : (k + 1) * len(names)]
        size = sum((coefficients.abs().mean() for coefficients in own), torch.zeros(()))
        total = total + (weight * loss + config.reg_beta * size) / concepts
    return total


def test_training_takes_the_concept_out(loud_model: Model) -> None:
    found: list[float] = []
    with objective(loud_model, ["cat"], 0.0, iter_break=30, lr=5.0, threshold=-1e9) as ours:
        train(loud_model, ours, lambda step, losses: found.append(losses["correlation of cat"]))
    assert found[0] > 0
    assert min(found) < 0


def edits_of(eraser: Eraser) -> list[WeightEdit]:
    edits = [edit for edit in eraser.edits if isinstance(edit, WeightEdit)]
    assert len(edits) == len(eraser.edits)
    return edits


@pytest.mark.parametrize("options", [{}, {"training": "joint"}, {"basis": "published"}], ids=str)
def test_a_change_leaves_the_empty_prompt_and_the_other_concepts_alone(
    loud_model: Model, options: dict[str, Any]
) -> None:
    eraser = erase(loud_model, BOTH, **{"lr": 10.0, **options})
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor(500)

    def predict(prompt: str) -> Tensor:
        with torch.no_grad():
            return loud_model.denoiser(x, t, encoder_hidden_states=loud_model.embed([prompt]).tokens).sample

    base = {prompt: predict(prompt) for prompt in ("", *BOTH)}
    for name, other in (BOTH, BOTH[::-1]):
        part = eraser.only(name)
        for edit in edits_of(part):
            weight = loud_model.denoiser.get_parameter(edit.parameter.removeprefix("denoiser.")).detach()
            for prompt in ("", other):
                tokens = loud_model.embed([prompt]).tokens[0].T
                torch.testing.assert_close(edit.on(weight) @ tokens, weight @ tokens, rtol=1e-4, atol=1e-4)
                assert edit.down is not None
                assert float((edit.down / 1e-2 @ tokens).abs().max()) < 1e-4
            own = loud_model.embed([name]).tokens[0].T
            assert float((edit.value(weight.shape) @ own).norm()) > 1e-3 * float((weight @ own).norm())
        with part.attach(loud_model):
            for prompt in ("", other):
                torch.testing.assert_close(predict(prompt), base[prompt], rtol=1e-4, atol=1e-4)
            assert float((predict(name) - base[name]).abs().max()) > 1e-3


def test_a_concept_is_given_back_to_the_bit(tiny_model: Model) -> None:
    """What is left is the base and the other's change, and that is the change which was made with both."""
    for training in ("separate", "joint"):
        both = efface.erase(tiny_model, BOTH, method="sepce", training=training, **QUICK)
        rest = both.without("cat")
        preserved = [edit for index, edit in enumerate(edits_of(both)) if int(both.inputs["owner"][index]) == 1]
        assert len(preserved) == len(tiny_model.text_parameters()) == len(both.edits) // 2
        expected = {
            edit.parameter: edit.on(tiny_model.denoiser.get_parameter(edit.parameter[9:])) for edit in preserved
        }
        baked = rest.bake(tiny_model)
        for name, weight in tiny_model.denoiser.state_dict().items():
            if f"denoiser.{name}" in expected:
                assert torch.equal(weight, expected.pop(f"denoiser.{name}"))
        assert not expected
        baked.undo()
        assert rest.only("golf ball").hash == rest.hash
        with pytest.raises(BadRequest):
            rest.without("golf ball")


def test_images_come_back_with_the_concept(loud_model: Model) -> None:
    def drawn(eraser: Eraser | None = None) -> Tensor:
        jobs = [Job(prompt, 3) for prompt in BOTH]
        found = sample(loud_model, jobs, Sampling(sampler="ddim", steps=2, guidance=2.0), eraser)
        return torch.stack([torch.from_numpy(pixels).int() for _, pixels in found if pixels is not None])

    base, both = drawn(), erase(loud_model, BOTH, lr=10.0)
    cat, ball = both.only("cat"), both.without("cat")
    assert not torch.equal(drawn(cat)[0], base[0])
    assert torch.equal(drawn(), base)  # to the bit, once it is off
    # With the other's change still there the bare word is as it was to rounding, and the other is not.
    assert int((drawn(ball)[0] - base[0]).abs().max()) <= 1
    assert not torch.equal(drawn(ball)[1], base[1])


def test_changes_are_kept_in_the_smaller_form(tiny_model: Model) -> None:
    for concepts, dense in (("cat", True), (BOTH, False)):  # 20 directions of 32, and 9
        for edit in edits_of(erase(tiny_model, concepts)):
            weight = tiny_model.denoiser.get_parameter(edit.parameter[9:])
            assert (edit.delta is not None) == dense
            assert edit.nbytes <= weight.numel() * 4
    with objective(tiny_model, ["cat"]) as ours:
        for edit, change in zip(ours._trained.edits(), ours._trained.changes(0), strict=True):
            assert edit.delta is not None
            assert torch.equal(edit.delta, change.detach())


def test_a_later_concept_spares_what_came_before(loud_model: Model) -> None:
    """As published: the new change is solved against all that was ever seen, and the old ones stay as they were."""
    options: dict[str, Any] = {**QUICK, "lr": 1.0, "method": "sepce"}
    cat = efface.erase(loud_model, "cat", **options)
    ball = efface.erase(loud_model, "golf ball", preserve=["cat"], **options)
    both = efface.compose(cat, ball)
    tokens = loud_model.embed(BOTH).tokens
    with cat.attach(loud_model):
        before = [weight @ tokens[0].T for _, weight in loud_model.text_weights()]
    with both.attach(loud_model):
        after = [weight @ tokens[0].T for _, weight in loud_model.text_weights()]
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert both.without("cat").hash == ball.hash
    assert both.without("golf ball").hash == cat.hash
    # The old change was solved without the new concept.
    weights = [loud_model.denoiser.get_parameter(edit.parameter[9:]) for edit in edits_of(cat)]
    changed = [edit.value(weight.shape) @ tokens[1].T for edit, weight in zip(edits_of(cat), weights, strict=True)]
    assert max(float(change.abs().max()) for change in changed) > 1e-3


def test_directions_are_as_many_as_the_tokens_leave(tiny_model: Model) -> None:
    """BOS is the same in every prompt: '' takes 12 directions, each other prompt 11."""
    cases: list[tuple[list[str], list[str], int]] = [(["cat"], [], 20), (BOTH, [], 9), (["cat"], ["a horse"], 9)]
    for names, preserve, free in cases:
        request = Request.make(names, preserve=preserve)
        for published in (False, True):
            for name, basis in bases(tiny_model, request, 1e-6, published).items():
                tokens = tiny_model.embed(protected_prompts(request, name)).tokens.flatten(0, 1).double()
                assert basis.shape == (free, 32)
                assert float((basis @ tokens.T).abs().max()) < 1e-4
                torch.testing.assert_close(basis.norm(dim=1), torch.ones(free, dtype=torch.float64))
                assert int(torch.linalg.matrix_rank(basis)) == free


def test_the_published_basis_is_that_of_the_reduced_row_echelon_form() -> None:
    import sympy

    generator = torch.Generator().manual_seed(0)
    for columns in ([0, 1, 2, 3, 4, 5, 6], [0, 0, 2, 3, 2, 5, 6]):  # the second has pivots that are not the first ones
        rows = torch.randint(-3, 4, (3, 7), generator=generator)[:, columns]
        expected = torch.tensor(
            [[float(value) for value in vector] for vector in sympy.Matrix(rows.tolist()).nullspace()],
            dtype=torch.float64,
        )
        expected /= expected.norm(dim=1, keepdim=True)
        basis = null_space(rows.double(), 1e-9)
        torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis), dtype=torch.float64))
        torch.testing.assert_close(free_variables(basis), expected)


def test_too_much_to_protect_is_refused_and_a_tolerance_makes_room(tiny_model: Model) -> None:
    preserve = ["a horse", "blue bird", "a house", "dog"]
    with pytest.raises(BadRequest, match=r"The 5 protected prompts .* 32 dimensions.* tolerance"):
        efface.erase(tiny_model, "cat", preserve=preserve, method="sepce", **QUICK)
    request = Request.make("cat", preserve=preserve)
    (loose,) = bases(tiny_model, request, 0.1, False).values()
    (looser,) = bases(tiny_model, request, 0.3, False).values()
    assert 0 < len(loose) < len(looser) <= 20
    tokens = tiny_model.embed(preserve).tokens.flatten(0, 1).double()
    assert torch.linalg.matrix_norm(loose @ tokens.T, 2) <= 0.1 * torch.linalg.matrix_norm(tokens, 2)
    assert float((looser @ tiny_model.embed([""]).tokens[0].double().T).abs().max()) < 1e-4


def test_defaults_are_the_published_ones() -> None:
    own, joint = SepceConfig(), SepceConfig(training="joint")
    assert (own.lr, own.threshold, own.reg_beta, own.scale_factor) == (0.1, 1e-4, 1e-6, 1e-4)
    assert (joint.lr, joint.threshold, joint.reg_beta, joint.scale_factor) == (1e-2, 0.0, 3e-5, 1e-4)
    assert own.iter_break == joint.iter_break == 1000
    assert SepceConfig(training="joint", lr=0.5).lr == 0.5
    refused: list[dict[str, Any]] = [{"training": "both"}, {"basis": "rref"}, {"scale_factor": 0}, {"tolerance": 2}]
    for wrong in refused:
        with pytest.raises(BadRequest, match=next(iter(wrong))):
            SepceConfig(**wrong)


@pytest.fixture
def between(tiny_model: Model) -> float:
    """A threshold that one of two concepts is below after twelve steps of joint training, and the other is not."""
    with objective(tiny_model, BOTH, 0.0, training="joint", threshold=-1e9, iter_break=12) as ours:
        train(tiny_model, ours)
        assert ours._momentum.values[0] != ours._momentum.values[1]
        return float(ours._momentum.values.mean())


@pytest.mark.parametrize("accumulate", [False, True])
def test_a_concept_that_stops_keeps_what_it_learnt(tiny_model: Model, between: float, accumulate: bool) -> None:
    options: dict[str, Any] = {"training": "joint", "iter_break": 14, "accumulate_grads": accumulate}
    steps: list[list[Tensor]] = []
    if accumulate:
        options["threshold"] = -1e9
    else:
        options["threshold"] = between
    with objective(tiny_model, BOTH, 0.0, **options) as ours:

        def tell(step: int, losses: Any) -> None:
            if accumulate and step == 12:
                ours._stop([0])
            steps.append([coefficients.detach().clone() for coefficients in ours._trained.coefficients])

        training = train(tiny_model, ours, tell)
        assert training.step == 14
        (active,) = ours._active
    m = len(tiny_model.text_parameters())
    for concept in (0, 1):
        pairs = zip(steps[11], steps[13], strict=True)
        same = [torch.equal(one, other) for one, other in pairs][concept * m : (concept + 1) * m]
        assert not any(same) if concept == active else all(same)


def test_joint_training_ends_when_all_have_stopped(tiny_model: Model) -> None:
    eraser = erase(tiny_model, BOTH, training="joint", iter_break=20, threshold=1e9)
    (run,) = eraser.provenance["training"]
    assert run["steps"] == 12
    assert set(run["losses"]) == {"loss", "norm of the first", "correlation of cat", "correlation of golf ball"}


def test_weights_stay_relative_to_a_first_concept_that_has_stopped(tiny_model: Model) -> None:
    with objective(tiny_model, BOTH, training="joint") as ours, torch.no_grad():
        ours.optimizer()
        norms = torch.tensor([6.0, 3.0])
        torch.testing.assert_close(ours._balance(norms), torch.tensor([1.0, 2.0]))
        both = ours.loss(ours.batch(0, 0))
        ours.finished(1, {name: float(value) for name, value in both.items()})
        ours._stop([0])
        last = float(both["norm of the first"])
        assert ours._first == last > 0
        torch.testing.assert_close(ours._balance(norms[1:]), torch.tensor([last / 3]))
        alone = ours.loss(ours.batch(0, 1))
        assert set(alone) == {"loss", "correlation of golf ball"}
        ours.finished(2, {name: float(value) for name, value in alone.items()})
        preserved = ours.state()
    with objective(tiny_model, BOTH, training="joint") as ours:
        ours.optimizer()
        ours.restore(preserved, range(1))
        torch.testing.assert_close(ours._balance(norms[1:]), torch.tensor([last / 3]))
    with objective(tiny_model, BOTH, training="joint", balance="max") as ours:
        ours.optimizer()
        ours._stop([0])
        torch.testing.assert_close(ours._balance(norms[1:]), torch.ones(1))


def test_an_interrupted_joint_training_goes_on(
    tiny_model: Model, between: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoints, "seconds", 0.0)
    monkeypatch.setattr(Checkpoints, "share", 0.0)
    options: dict[str, Any] = {**QUICK, "method": "sepce", "training": "joint", "iter_break": 15, "threshold": between}
    whole = efface.erase(tiny_model, BOTH, **options)

    def crash(what: str, done: int, total: int, note: str = "") -> None:
        if what == "cat, golf ball" and done == 13:
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        efface.erase(tiny_model, BOTH, context=RunContext(tmp_path, crash), **options)
    assert efface.erase(tiny_model, BOTH, context=RunContext(tmp_path), **options).hash == whole.hash


def test_a_checkpoint_of_other_directions_is_refused(tiny_model: Model, tmp_path: Path) -> None:
    def crash(what: str, done: int, total: int, note: str = "") -> None:
        if what == "cat" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        efface.erase(tiny_model, "cat", method="sepce", context=RunContext(tmp_path, crash), **QUICK)
    with pytest.raises(BadInput, match="--force"):
        efface.erase(tiny_model, "cat", preserve=["dog"], method="sepce", context=RunContext(tmp_path), **QUICK)


def test_half_precision_stays_in_the_null_space(tiny_model: Model) -> None:
    request = Request.make("cat")
    (basis,) = bases(tiny_model, request, 1e-6, False).values()
    weights = Confined(tiny_model.denoiser, tiny_model.text_parameters(), [basis])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for coefficients in weights.coefficients:
            coefficients.normal_(generator=torch.Generator().manual_seed(0))
        (change, *_) = weights.changes(0)
    assert change.dtype == torch.float32
    assert float((change @ tiny_model.embed([""]).tokens[0].T).abs().max()) < 1e-3


def test_the_base_is_the_teacher_and_stays(tiny_model: Model) -> None:
    before = copy.deepcopy(tiny_model.denoiser.state_dict())
    efface.erase(tiny_model, BOTH, method="sepce", **QUICK)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny_model.denoiser.state_dict().items())
