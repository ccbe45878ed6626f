"""Settings that every trained method has."""

from typing import Literal

from pydantic import Field

from efface.settings import Settings


class TrainingConfig(Settings):
    """What the loop reads, by the names of accelerate and diffusers' training scripts.

    Attributes:
        seed: of noise, timesteps and the order of the data.
        gradient_accumulation_steps: forward passes of one step of the optimiser, in each process.
        mixed_precision: the type that forward passes compute in; None is what `accelerate launch` was told, else "no".
        save_freq: keep the eraser as it is after every so many steps, beside the log.
        report_to: a tracker to log to, which must be installed; losses go to the log's JSON lines in any case.
    """

    seed: int = Field(default=0, ge=0)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    save_freq: int | None = Field(default=None, ge=1)
    report_to: Literal["tensorboard", "trackio", "wandb"] | None = None
