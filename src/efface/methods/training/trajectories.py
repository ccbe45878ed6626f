"""Noisy latents along the model's own sampling trajectories, from noise to an image.

Published ESD samples a new partial trajectory for every step of training, 25 guided steps on average, and uses only its
end. Here several trajectories are sampled together, and each is stored at several of its points; such a *round* serves
as many training steps as it has points. With one point per trajectory it is the published procedure.

Shapes: n trajectories with k points each, C latent channels, h and w latent size, R rows of text, d text width.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from efface.errors import BadRequest
from efface.models.denoising import ddim_scheduler, guided
from efface.models.flow import NoiseLevels, is_flow, model_input, scaled_noise, set_timesteps

if TYPE_CHECKING:
    from efface.models import Model

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
Points = dict[str, Tensor]
_TRAJECTORIES_PER_SAMPLE = 4  # trajectories of a round, for each sample of a batch


@dataclass(frozen=True)
class TrajectorySampler:
    """How trajectories are sampled.

    Attributes:
        config: Configuration of the model's scheduler, with its `_class_name`.
        latent_shape: Shape (C, h, w) of the latents.
        steps: Number of steps from noise to image.
        guidance: Scale of classifier-free guidance.
        own_scheduler: Sample with the model's own scheduler instead of DDIM (eta 0), which a flow model does not have.
        compvis_quirk: Reproduce the 2023 code: the grid of DDIM lacks its noisiest entry, and the timestep of a point
            is two entries of the grid noisier than the point, drawn from a whole interval of the grid.
        noise_levels: How the noise levels of a flow model are spaced (`Model.noise_levels`).
        set_guidance: For a network that reads its guidance scale: sets the scale in texts (n, R, d).
    """

    config: Mapping[str, Any]
    latent_shape: tuple[int, int, int]
    steps: int
    guidance: float
    own_scheduler: bool = False
    compvis_quirk: bool = False
    noise_levels: NoiseLevels = "even"
    set_guidance: Callable[[Tensor, float], Tensor] | None = None

    def start(self) -> tuple[Any, Tensor]:
        """A new scheduler, which has state while a round is sampled, and its timesteps, noisiest first, (steps,)."""
        if self.own_scheduler or is_flow(self.config):
            import diffusers

            kind: Any = getattr(diffusers, self.config["_class_name"])
            scheduler = kind.from_config(dict(self.config))
        else:
            grid: dict[str, Any] = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}
            scheduler = ddim_scheduler(self.config, **(grid if self.compvis_quirk else {}))
        set_timesteps(scheduler, self.steps, self.latent_shape, "cpu", self.noise_levels)
        return scheduler, scheduler.timesteps[1:] if self.compvis_quirk else scheduler.timesteps

    def draw(self, n: int, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Choose points of trajectories at random.

        Args:
            n: Number of trajectories.
            k: Points of each.
            generator: The source of randomness.

        Returns:
            The number of steps before each point, (n, k), and the timestep that it is trained at, (n, k).
        """
        scheduler, timesteps = self.start()
        points = torch.stack([torch.randperm(self.steps, generator=generator)[:k] for _ in range(n)])
        if not self.compvis_quirk:
            return points, timesteps[points]
        span = scheduler.config.num_train_timesteps // self.steps
        times = span * points + torch.randint(span, points.shape, generator=generator)
        return (self.steps - points).clamp(max=self.steps - 1), times

    @torch.no_grad()
    def sample(
        self, predict: Predict, noise: Tensor, texts: Tensor, stops: Tensor, last: bool
    ) -> tuple[Tensor, Tensor]:
        """Sample trajectories and store them at their points.

        Args:
            predict: The network, from x (2n, C, h, w), t (2n,) and texts to a prediction.
            noise: Noise of unit variance, (n, C, h, w).
            texts: Embeddings of the empty prompt, then of each trajectory's prompt, (2n, R, d).
            stops: Number of steps before each point, (n, k).
            last: Predict at the last point too, which no further step needs.

        Returns:
            The points as the network reads them, (n, k, C, h, w), and its predictions there for the empty prompt and
            for the trajectory's prompt, (2, n, k, C, h, w); with `set_guidance` there are none, and they are zeros.
        """
        scheduler, timesteps = self.start()
        shape = (*stops.shape, *noise.shape[1:])
        points, predictions = noise.new_zeros(shape), noise.new_zeros(2, *shape)
        latents = scaled_noise(scheduler, noise)
        for done in range(int(stops.max()) + 1):
            rows, columns = (stops == done).nonzero(as_tuple=True)
            t = timesteps[min(done, len(timesteps) - 1)]
            x = model_input(scheduler, latents, t)
            points[rows, columns] = x[rows]
            if done == stops.max() and not last:
                break
            times = t.to(x.device).expand(2 * len(x))
            if self.set_guidance is None:
                both = predict(torch.cat([x, x]), times, texts).unflatten(0, (2, len(x)))
                predictions[:, rows, columns] = both[:, rows]
                prediction = guided(both[0], both[1], self.guidance)
            else:
                prediction = predict(x, times[: len(x)], self.set_guidance(texts[len(x) :], self.guidance))
            if done < stops.max():
                latents = scheduler.step(prediction, t, latents, return_dict=False)[0]
        return points, predictions


class Rounds:
    """Batches from rounds of points, for any number of slots.

    Args:
        draw: From slot and round to the round's points, shuffled: tensors of `steps` batches, (steps, b, ...).
        steps: Number of training steps that a round serves.
    """

    def __init__(self, draw: Callable[[int, int], Points], steps: int) -> None:
        self._draw, self._steps = draw, steps
        self._rounds: dict[int, Points] = {}

    def batch(self, slot: int, step: int) -> Points:
        """The batch of a slot at a step, tensors (b, ...)."""
        number, place = divmod(step, self._steps)
        if slot not in self._rounds or int(self._rounds[slot]["round"]) != number:
            self._rounds[slot] = {**self._draw(slot, number), "round": torch.tensor(number)}
        return {name: tensor[place] for name, tensor in self._rounds[slot].items() if name != "round"}

    def state(self) -> dict[str, Tensor]:
        """The tensors of the current rounds."""
        return {f"{slot}.{name}": t for slot, points in self._rounds.items() for name, t in points.items()}

    def restore(self, tensors: Mapping[str, Tensor], slots: Container[int], device: torch.device) -> None:
        """Restore the rounds of some slots.

        Args:
            tensors: The result of `state`, tensors of any shape by name.
            slots: The slots to restore.
            device: The device of the points.
        """
        self._rounds = {}
        for key, tensor in tensors.items():
            slot, _, name = key.partition(".")
            if int(slot) in slots:
                self._rounds.setdefault(int(slot), {})[name] = tensor if name == "round" else tensor.to(device)


def trajectories_per_sample(iterations: int, points_each: int, reuse: int) -> int:
    """The number of trajectories of a round, for each sample of a batch.

    Args:
        iterations: The steps of the training.
        points_each: The points of a trajectory that are trained on.
        reuse: The largest number of them; 1 is the published procedure, a new trajectory for each step.
    """
    return 1 if reuse == 1 else min(_TRAJECTORIES_PER_SAMPLE, -(-iterations // points_each))


def predictions_at(
    predict: Predict, points: Points, label: str, texts: Callable[[Tensor], Sequence[Tensor]], batch_size: int
) -> Tensor:
    """The predictions of a network at points for several prompts, (prompts, m, C, h, w).

    Args:
        predict: The network; a batch has all prompts of `batch_size` points.
        points: The points: "x" (m, C, h, w), "t" (m,), and the labels (m,).
        label: The name of the labels.
        texts: From labels (b,) to the text of each prompt, (b, R, d).
        batch_size: The points of a batch.
    """
    batches: list[Tensor] = []
    for x, t, labels in zip(*(points[name].split(batch_size) for name in ("x", "t", label)), strict=True):
        prompts = texts(labels)
        n = len(prompts)
        predicted = predict(x.repeat(n, 1, 1, 1), t.repeat(n), torch.cat([*prompts]))
        batches.append(predicted.unflatten(0, (n, -1)))
    return torch.cat(batches, dim=1)


def shuffled(points: Points, batch_size: int, generator: torch.Generator) -> Points:
    """Points in a random order, as batches.

    Args:
        points: The points, (m, ...).
        batch_size: The points b of a batch.
        generator: The source of randomness, on the CPU.

    Returns:
        The batches, (m / b, b, ...).
    """
    order = torch.randperm(len(points["x"]), generator=generator).to(points["x"].device)
    return {name: tensor[order].unflatten(0, (-1, batch_size)) for name, tensor in points.items()}


def latent_shape(model: Model, image_size: int | None) -> tuple[int, int, int]:
    """Shape (C, h, w) of the latents of a square image of that many pixels, or of the model's default size.

    Raises:
        BadRequest: The size is not a multiple of the pixels per latent.
    """
    if image_size is None:
        return model.latent_shape
    factor = model.pixels_per_latent
    if image_size % factor:
        raise BadRequest(f"image_size={image_size} cannot be sampled; give a multiple of {factor}.")
    return model.latent_shape[0], image_size // factor, image_size // factor
