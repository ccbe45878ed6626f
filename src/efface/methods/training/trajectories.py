"""Noisy latents that the model itself passes through on its way from noise to a picture.

Published ESD samples a fresh partial trajectory for every step of training, 25 guided steps on average, and throws away
all but its end. Here trajectories run side by side, and each is kept at several of its points; a *round* of them serves
as many steps of training as there are points. With one point a trajectory it is the published procedure.

Shapes: n trajectories, k points of each, C latent channels, h and w latent size, T tokens, d text width.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from efface.errors import BadRequest
from efface.models.denoising import ddim_scheduler, guided

if TYPE_CHECKING:
    from efface.models import Model

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
Points = dict[str, Tensor]


@dataclass(frozen=True)
class Sampler:
    """How trajectories are sampled.

    Attributes:
        config: of the model's scheduler, with its `_class_name`.
        steps: from noise to picture.
        guidance: classifier-free guidance on the way.
        own: sample with the model's own scheduler instead of DDIM (eta 0).
        compvis_quirk: as the 2023 code has it: the grid of DDIM lacks its noisiest entry, and a point is said to be
            two entries of the grid noisier than it is, at a timestep drawn from a whole interval of the grid.
    """

    config: Mapping[str, Any]
    steps: int
    guidance: float
    own: bool = False
    compvis_quirk: bool = False

    def start(self) -> tuple[Any, Tensor]:
        """A new scheduler, which keeps state while a round is sampled, and its timesteps, noisiest first."""
        if self.own:
            import diffusers

            kind: Any = getattr(diffusers, self.config["_class_name"])
            scheduler = kind.from_config(dict(self.config))
        else:
            grid: dict[str, Any] = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}
            scheduler = ddim_scheduler(self.config, **(grid if self.compvis_quirk else {}))
        scheduler.set_timesteps(self.steps)
        return scheduler, scheduler.timesteps[1:] if self.compvis_quirk else scheduler.timesteps

    def draw(self, n: int, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """k points of each of n trajectories: the steps done before each, and the timestep it is trained at; (n, k)."""
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
        """Sample trajectories and keep them at their points.

        Args:
            predict: the network, (x, t, text) to a prediction.
            noise: (n, C, h, w), of unit variance.
            texts: (2n, T, d), of the empty prompt and then of each trajectory's own.
            stops: (n, k), steps done before each point.
            last: predict at the last point too, which no further step needs.

        Returns:
            The points as the network reads them, (n, k, C, h, w), and what it predicted there for the empty prompt and
            for the trajectory's own, (2, n, k, C, h, w).
        """
        scheduler, timesteps = self.start()
        shape = (*stops.shape, *noise.shape[1:])
        points, predictions = noise.new_zeros(shape), noise.new_zeros(2, *shape)
        latents = noise * scheduler.init_noise_sigma
        for done in range(int(stops.max()) + 1):
            rows, columns = (stops == done).nonzero(as_tuple=True)
            t = timesteps[min(done, len(timesteps) - 1)]
            x = scheduler.scale_model_input(latents, t)
            points[rows, columns] = x[rows]
            if done == stops.max() and not last:
                break
            both = predict(torch.cat([x, x]), t.to(x.device).expand(2 * len(x)), texts).unflatten(0, (2, len(x)))
            predictions[:, rows, columns] = both[:, rows]
            if done < stops.max():
                prediction = guided(both[0], both[1], self.guidance)
                latents = scheduler.step(prediction, t, latents, return_dict=False)[0]
        return points, predictions


class Rounds:
    """Batches out of rounds of points, for any number of slots.

    Args:
        draw: (slot, round) to the round's points, shuffled: tensors of `steps` batches, (steps, b, ...).
        steps: how many steps a round serves.
    """

    def __init__(self, draw: Callable[[int, int], Points], steps: int) -> None:
        self._draw, self._steps = draw, steps
        self._rounds: dict[int, Points] = {}

    def batch(self, slot: int, step: int) -> Points:
        """What slot reads at a step: (b, ...) each."""
        number, place = divmod(step, self._steps)
        if slot not in self._rounds or int(self._rounds[slot]["round"]) != number:
            self._rounds[slot] = {**self._draw(slot, number), "round": torch.tensor(number)}
        return {name: tensor[place] for name, tensor in self._rounds[slot].items() if name != "round"}

    def state(self) -> dict[str, Tensor]:
        """The rounds under way."""
        return {f"{slot}.{name}": t for slot, points in self._rounds.items() for name, t in points.items()}

    def restore(self, tensors: Mapping[str, Tensor], slots: Container[int], device: torch.device) -> None:
        """Take up what `state` gave, of these slots."""
        self._rounds = {}
        for key, tensor in tensors.items():
            slot, _, name = key.partition(".")
            if int(slot) in slots:
                self._rounds.setdefault(int(slot), {})[name] = tensor if name == "round" else tensor.to(device)


def latent_shape(model: Model, image_size: int | None) -> tuple[int, int, int]:
    """(C, h, w) of a square picture of that many pixels, or of the model's own size; only the former needs the VAE."""
    channels, own = model.denoiser.config.in_channels, model.denoiser.config.sample_size
    if image_size is None:
        height, width = (own, own) if isinstance(own, int) else own
        return channels, height, width
    factor = 2 ** (len(model.vae.config.block_out_channels) - 1)
    if image_size % factor:
        raise BadRequest(f"image_size={image_size} cannot be sampled; give a multiple of {factor}.")
    return channels, image_size // factor, image_size // factor
