"""Training is taken up again bit for bit, whatever ended it; several processes do what one does."""

import json
import math
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import efface
from efface import BadInput, Eraser, Model, Request, RunContext
from efface.methods.trained.esd import Esd, EsdConfig
from efface.methods.training import run as erasing
from efface.methods.training.checkpoints import Checkpoints, discard
from efface.methods.training.loop import Training
from efface.methods.training.objective import Batch, Losses
from efface.methods.training.weights import frozen
from support import Processes

OPTIONS: dict[str, Any] = {
    "iterations": 5, "ddim_steps": 3, "reuse": 2, "lr": 1e-3, "train_method": "xattn",
}  # fmt: skip
# Losses grow from step to step until they are no numbers any more.
DIVERGES: dict[str, Any] = {"iterations": 40, "reuse": 1, "lr": 1e3}


def trained(model: Model, concepts: Any = "cat", context: RunContext | None = None, **options: Any) -> Eraser:
    chosen: dict[str, Any] = {**OPTIONS, **options}
    return efface.erase(model, concepts, method="esd", context=context, **chosen)


class Stop:
    """Ends a training after a step, as a crash, or as Ctrl-C."""

    def __init__(self, step: int, how: str) -> None:
        self.step, self.how, self.reported = step, how, list[tuple[str, int, int, str]]()

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        self.reported.append((what, done, total, note))
        if done == self.step and self.how == "crash":
            raise RuntimeError("crash")
        if done == self.step:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def _every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after each step."""
    monkeypatch.setattr(Checkpoints, "seconds", 0.0)
    monkeypatch.setattr(Checkpoints, "share", 0.0)


@pytest.mark.usefixtures("_every_step")
@pytest.mark.parametrize("how", ["crash", "interrupt"])
@pytest.mark.parametrize("latents", ["frozen", "edited"])
def test_a_killed_training_ends_as_one_that_was_not(tiny_model: Model, tmp_path: Path, how: str, latents: str) -> None:
    options: dict[str, Any] = {"latents": latents, "gradient_accumulation_steps": 2}
    whole = trained(tiny_model, "cat", **options)
    stop = Stop(3, how)
    with pytest.raises(RuntimeError if how == "crash" else KeyboardInterrupt):
        trained(tiny_model, "cat", context=RunContext(tmp_path / "t", stop), **options)
    rest = Stop(0, "")
    resumed = trained(tiny_model, "cat", context=RunContext(tmp_path / "t", rest), **options)
    assert resumed.hash == whole.hash
    # After a crash in step 3 the checkpoint of step 2 is the last; Ctrl-C still leaves that of step 3.
    assert [done for _, done, _, _ in rest.reported] == ([3, 4, 5] if how == "crash" else [4, 5])
    assert stop.reported[0][:3] == ("cat", 1, 5)
    assert stop.reported[0][3].startswith("loss ")
    lines = [json.loads(line) for line in (tmp_path / "t" / "component-0.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert all(line["loss"] > 0 and line["seconds"] >= 0 for line in lines)
    assert resumed.provenance["training"][0]["losses"]["loss"] == lines[-1]["loss"]


@pytest.mark.usefixtures("_every_step")
def test_concepts_that_are_done_are_not_trained_again(tiny_model: Model, tmp_path: Path) -> None:
    work = RunContext(tmp_path, Stop(99, ""))
    with pytest.raises(KeyboardInterrupt):
        trained(tiny_model, ["cat", "dog"], context=RunContext(tmp_path, StopIn("dog")))
    eraser = trained(tiny_model, ["cat", "dog"], context=work)
    assert isinstance(work.progress, Stop)
    assert {what for what, *_ in work.progress.reported} == {"dog"}
    assert eraser.hash == trained(tiny_model, ["cat", "dog"]).hash


class StopIn(Stop):
    """Ctrl-C in the second step of one concept."""

    def __init__(self, concept: str) -> None:
        super().__init__(2, "interrupt")
        self.concept = concept

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        if what == self.concept:
            super().__call__(what, done, total, note)


@pytest.mark.usefixtures("_every_step")
def test_gradients_that_are_never_zeroed_are_taken_up_again(tiny_model: Model, tmp_path: Path) -> None:
    def weights(folder: Path | None, stop: int) -> list[torch.Tensor]:
        config = EsdConfig(**OPTIONS)
        checkpoints = Checkpoints(folder, 0, {}) if folder else None
        with frozen(tiny_model.denoiser), erasing._accelerated(tiny_model, config, None) as accelerator:
            ours = Esd(tiny_model, Request.make("cat"), config)
            ours.keeps_gradients = True

            def tell(step: int, losses: Any) -> None:
                if step == stop:
                    raise RuntimeError

            Training(accelerator, ours, checkpoints, tell).run()
            return [tensor.detach() for tensor in ours.weights.parameters()]

    whole = weights(None, 0)
    with pytest.raises(RuntimeError):
        weights(tmp_path, 3)
    resumed = weights(tmp_path, 0)
    assert all(torch.equal(one, other) for one, other in zip(whole, resumed, strict=True))
    plain = trained(tiny_model, "cat").edits[0]
    assert isinstance(plain, efface.WeightEdit)
    assert plain.delta is not None
    name = plain.parameter.removeprefix("denoiser.")
    assert not torch.allclose(whole[0], tiny_model.denoiser.get_parameter(name) + plain.delta)


def test_a_training_that_diverges_keeps_the_last_weights_of_use(tiny_model: Model, tmp_path: Path) -> None:
    """However short it was, and whether or not it was time for a checkpoint."""
    with pytest.raises(BadInput, match=r"diverged: the loss of step \d+ .* learning rate below 1000") as caught:
        trained(tiny_model, "cat", context=RunContext(tmp_path), **DIVERGES)
    assert "\n" not in str(caught.value)
    (path,) = tmp_path.glob("component-0-step-*.safetensors")
    assert str(caught.value).endswith(f" steps, whose loss was still finite, is {path}.")
    steps = int(path.stem.rpartition("-")[2])
    preserved = Eraser.load(path)
    as_far: dict[str, Any] = {**DIVERGES, "iterations": steps}
    assert preserved.hash == trained(tiny_model, "cat", **as_far).hash
    assert not (tmp_path / "component-0.checkpoint.safetensors").exists()
    rows = [json.loads(line) for line in (tmp_path / "component-0.jsonl").read_text().splitlines()]
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert steps < rows[-1]["step"] + 1


def test_a_loss_that_is_not_finite_is_not_learned_from(tiny_model: Model) -> None:
    config = EsdConfig.model_validate(OPTIONS)
    with frozen(tiny_model.denoiser), erasing._accelerated(tiny_model, config, None) as accelerator:
        ours = Endless(tiny_model, Request.make("cat"), config)
        before = [tensor.detach().clone() for tensor in ours.weights.parameters()]
        training = Training(accelerator, ours)
        with pytest.raises(BadInput, match="the loss of step 1 is not finite"):
            training.run()
        assert all(torch.equal(*pair) for pair in zip(before, ours.weights.parameters(), strict=True))
    assert training.step == 0


class Endless(Esd):
    """A loss that is not finite, with gradients that are."""

    def loss(self, batch: Batch) -> Losses:
        return {"loss": super().loss(batch)["loss"] + torch.inf}


class Steep(Esd):
    """Weights overflow in the first step, after a loss that is finite."""

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.weights.parameters(), lr=1e38)

    def loss(self, batch: Batch) -> Losses:
        return {"loss": 1e10 * super().loss(batch)["loss"]}


def test_no_eraser_is_made_of_weights_that_are_not_finite(tiny_model: Model) -> None:
    config = EsdConfig.model_validate({**OPTIONS, "iterations": 1})
    with frozen(tiny_model.denoiser), erasing._accelerated(tiny_model, config, None) as accelerator:
        training = Training(accelerator, Steep(tiny_model, Request.make("cat"), config))
        with pytest.raises(BadInput, match="a weight after step 1 is not finite"):
            training.run()


@pytest.mark.usefixtures("_every_step")
def test_a_checkpoint_of_other_work_is_refused_or_dropped_by_force(
    tiny_model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RuntimeError):
        trained(tiny_model, "cat", context=RunContext(tmp_path, Stop(3, "crash")))
    others: list[tuple[str, dict[str, Any]]] = [("dog", {}), ("cat", {"seed": 1})]
    for name, options in others:
        with pytest.raises(BadInput, match="--force"):
            trained(tiny_model, name, context=RunContext(tmp_path), **options)
    path = tmp_path / "component-0.checkpoint.safetensors"
    content = path.read_bytes()
    for damaged in (content[:100], content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(damaged)
        again = Stop(0, "")
        with caplog.at_level("INFO", "efface"):
            trained(tiny_model, "cat", context=RunContext(tmp_path, again))
        assert [done for _, done, _, _ in again.reported] == [1, 2, 3, 4, 5]
        assert "The training starts again" in caplog.text
    path.write_bytes(content)
    forced = Stop(0, "")
    eraser = trained(tiny_model, "dog", context=RunContext(tmp_path, forced, force=True))
    assert [done for _, done, _, _ in forced.reported] == [1, 2, 3, 4, 5]
    assert eraser.hash == trained(tiny_model, "dog").hash


@pytest.mark.usefixtures("_every_step")
def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(
    tiny_model: Model, tmp_path: Path, small_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    with small_disk(), pytest.raises(BadInput, match="Cannot write") as caught:
        trained(tiny_model, "cat", context=RunContext(tmp_path))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["component-0.jsonl"]


def test_erasers_on_the_way_are_kept_where_asked_for(tiny_model: Model, tmp_path: Path) -> None:
    eraser = trained(tiny_model, "cat", RunContext(tmp_path), save_freq=2, reuse=1)
    discard(tmp_path)
    preserved = sorted(path.name for path in tmp_path.iterdir())
    assert preserved == ["component-0-step-2.safetensors", "component-0-step-4.safetensors", "component-0.jsonl"]
    early = Eraser.load(tmp_path / preserved[0])
    assert early.hash == trained(tiny_model, "cat", iterations=2, reuse=1).hash != eraser.hash
    assert early.base.parameters == eraser.base.parameters != {}


def test_erasers_of_an_earlier_training_are_not_mixed_with_the_new_one(tiny_model: Model, tmp_path: Path) -> None:
    def preserved() -> set[str]:
        return {path.stem.removeprefix("component-") for path in tmp_path.glob("component-*-step-*")}

    trained(tiny_model, ["cat", "dog"], RunContext(tmp_path), save_freq=1)
    assert preserved() == {f"{component}-step-{step}" for component in (0, 1) for step in range(1, 6)}
    with pytest.raises(BadInput, match="--force"):
        trained(tiny_model, ["cat", "dog"], RunContext(tmp_path), save_freq=2, lr=1e-4)
    assert len(preserved()) == 10
    others: dict[str, Any] = {"save_freq": 2, "lr": 1e-4}
    with pytest.raises(KeyboardInterrupt):  # in the first concept
        trained(tiny_model, ["cat", "dog"], RunContext(tmp_path, Stop(2, "interrupt"), force=True), **others)
    assert preserved() == {"0-step-2"}
    with pytest.raises(KeyboardInterrupt):
        trained(tiny_model, ["cat", "dog"], RunContext(tmp_path, StopIn("dog"), force=True), **others)
    assert preserved() == {"0-step-2", "0-step-4", "1-step-2"}
    trained(tiny_model, ["cat", "dog"], RunContext(tmp_path), **others)
    assert preserved() == {"0-step-2", "0-step-4", "1-step-2", "1-step-4"}
    trained(tiny_model, "cat", RunContext(tmp_path), **others)
    assert preserved() == {"0-step-2", "0-step-4"}


def test_precisions_take_turns_in_one_process(tiny_model: Model) -> None:
    plain = trained(tiny_model, "cat")
    mixed = trained(tiny_model, "cat", mixed_precision="bf16")
    assert mixed.hash != plain.hash == trained(tiny_model, "cat").hash
    with pytest.raises(BadInput, match="fp16"):
        trained(tiny_model, "cat", mixed_precision="fp16")


def test_a_bfloat16_model_trains_float32_copies(tiny_sd: Path) -> None:
    eraser = trained(efface.open_model(tiny_sd, dtype=torch.bfloat16), "cat", lr=1e-6)
    for edit in eraser.edits:
        assert isinstance(edit, efface.WeightEdit)
        assert edit.delta is not None
        assert edit.delta.dtype == torch.float32
        assert 0 < float(edit.delta.abs().max()) < 1e-4  # far below what bfloat16 resolves of these weights


def test_a_tracker_that_is_not_there_is_refused(tiny_model: Model, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="report_to=trackio"):
        trained(tiny_model, "cat", report_to="trackio")


def test_tensorboard_shows_each_step_once_after_an_interruption(tiny_model: Model, tmp_path: Path) -> None:
    """Steps go on from concept to concept, and a crash before the first checkpoint logs some of them twice."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options: dict[str, Any] = {"report_to": "tensorboard"}
    with pytest.raises(RuntimeError):
        trained(tiny_model, ["cat", "dog"], RunContext(tmp_path, Stop(3, "crash")), **options)
    with pytest.raises(KeyboardInterrupt):
        trained(tiny_model, ["cat", "dog"], RunContext(tmp_path, StopIn("dog")), **options)
    trained(tiny_model, ["cat", "dog"], RunContext(tmp_path), **options)
    events = reader.EventAccumulator(str(tmp_path / "efface"))
    events.Reload()
    for index, name in enumerate(("cat", "dog")):
        found = [(event.step - 5 * index, event.value) for event in events.Scalars(f"{name}/loss")]
        rows = [json.loads(line) for line in (tmp_path / f"component-{index}.jsonl").read_text().splitlines()]
        assert found == [(row["step"], pytest.approx(row["loss"])) for row in rows]
        assert [step for step, _ in found] == [1, 2, 3, 4, 5]


def test_what_a_tracker_fails_with_is_one_sentence(tiny_model: Model, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "efface").write_text("a file where the tracker wants a folder")
    with pytest.raises(BadInput, match=r"report_to=tensorboard failed.* leave it out") as caught:
        trained(tiny_model, "cat", RunContext(tmp_path), report_to="tensorboard")
    assert "\n" not in str(caught.value)


def test_gradients_that_are_kept_are_not_unscaled_again_and_again(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import Accelerator

    monkeypatch.setattr(Accelerator, "mixed_precision", "fp16")  # which accelerate itself refuses on the CPU
    with pytest.raises(BadInput, match="accumulate_grads"):
        efface.erase(tiny_model, "cat", method="cie", iter_break=1, accumulate_grads=True)


def assert_near(found: Eraser, alone: Eraser) -> None:
    """The same edits up to what the order of sums does to Adam."""
    for edit, other in zip(found.edits, alone.edits, strict=True):
        assert isinstance(edit, efface.WeightEdit)
        assert isinstance(other, efface.WeightEdit)
        assert edit.delta is not None
        assert other.delta is not None
        assert float((edit.delta - other.delta).norm()) < 1e-2 * float(other.delta.norm())


LAUNCHED = """
from pathlib import Path
import efface
from accelerate import PartialState

out = Path({out!r})
eraser = efface.erase({model!r}, "cat", method="esd", context=efface.RunContext(out / "work"), **{options!r})
state = PartialState()
assert state.num_processes == 2
eraser.save(out / f"{{state.process_index}}.safetensors")
state.destroy_process_group()
"""


def test_two_processes_do_what_one_does_with_two_accumulated_batches(
    processes: Processes, tiny_sd: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {**OPTIONS, "iterations": 3, "latents": "edited"}
    script = LAUNCHED.format(out=str(tmp_path), model=str(tiny_sd), options=options)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # as launchers tell it
    ranks = [processes.script(script, **group, RANK=rank, LOCAL_RANK=rank) for rank in (0, 1)]
    assert [processes.wait(rank) for rank in ranks] == [0, 0]
    first, second = (Eraser.load(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert first.hash == second.hash
    alone = trained(efface.open_model(tiny_sd), "cat", gradient_accumulation_steps=2, **options)
    assert_near(first, alone)
    tensors = load_file(tmp_path / "work" / "component-0.checkpoint.safetensors")
    assert {"own.0.x", "own.1.x"} <= set(tensors)
