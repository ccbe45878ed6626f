"""What to generate, and how: jobs and sampling settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, get_args

from efface.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

    from efface.models import Model

Sampler = Literal["dpm++", "ddim", "lms", "own"]
SAMPLERS: tuple[str, ...] = get_args(Sampler)


@dataclass(frozen=True)
class Embedding:
    """What the denoiser reads in a prompt's place; equal where the numbers are.

    Attributes:
        tokens: (T, d), float32, as `Model.embed` gives them.
        hash: SHA-256 of the numbers.
    """

    tokens: Tensor = field(compare=False, repr=False)
    hash: str

    @classmethod
    def of(cls, tokens: Tensor) -> Embedding:
        """The embedding of these tokens (T, d)."""
        from efface.files import sha256_of_tensors

        tokens = tokens.detach().float().cpu().contiguous()
        return cls(tokens, sha256_of_tensors({"": tokens}))


@dataclass(frozen=True)
class Job:
    """One image to make.

    Attributes:
        prompt: The text; the empty prompt is allowed.
        seed: Seeds this image's own CPU generator, so that nothing else decides its noise.
        guidance: Classifier-free guidance; `None` takes the sampling's.
        concept: What the image should show, as a label for judging; not given to the model.
        negative: The text to guide away from; `None` is the empty prompt.
        width: In pixels; `None` takes the model's own size.
        height: In pixels; `None` takes the model's own size.
        embedding: Given to the denoiser in place of the prompt's own; the prompt then only says what it began as.
    """

    prompt: str
    seed: int = 0
    guidance: float | None = None
    concept: str = ""
    negative: str | None = None
    width: int | None = None
    height: int | None = None
    embedding: Embedding | None = None

    def __post_init__(self) -> None:
        if not -(2**63) <= self.seed < 2**64:
            raise BadInput(f"Seed {self.seed} does not fit 64 bits; give one between {-(2**63)} and {2**64 - 1}.")


@dataclass(frozen=True)
class Sampling:
    """How images are sampled; part of every image's provenance, except for the batch size.

    Attributes:
        sampler: `dpm++` (DPM-Solver++ of order 2, arXiv 2211.01095), `ddim` (arXiv 2010.02502, eta 0), `lms`, or `own`:
            the one that the model comes with, as SD3 and FLUX need it.
        steps: Denoiser evaluations an image and guidance branch.
        guidance: Classifier-free guidance (arXiv 2207.12598); 1 leaves the unconditional branch out.
        batch_size: Images denoised together; changes speed and memory, not the images.
        clip_skip: How many of the text encoder's last layers to skip; `None` is the family's way.
    """

    sampler: Sampler = "dpm++"
    steps: int = 20
    guidance: float = 7.5
    batch_size: int = 16
    clip_skip: int | None = None

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise BadInput(f"Unknown sampler '{self.sampler}'; there is: {', '.join(SAMPLERS)}.")
        if self.steps < 1 or self.batch_size < 1:
            raise BadInput(f"Steps ({self.steps}) and batch size ({self.batch_size}) must be at least 1.")
        if not self.guidance >= 0:
            raise BadInput(f"Guidance {self.guidance} must be 0 or more.")

    @classmethod
    def default(cls, model: Model) -> Sampling:
        """The settings that the model's own images are best with.

        For a built-in model they were measured. For Stable Diffusion they are the customary ones; for other families,
        the defaults of their pipelines.
        """
        if model.sampling is not None:
            return cls(**dict[str, Any](model.sampling))
        if model.called is None:
            return cls()
        defaults = {name: parameter.default for name, parameter in model.called.items()}
        option = guidance_option(defaults)
        guidance = 1.0 if option is None else defaults[option]
        return cls(sampler="own", steps=defaults.get("num_inference_steps", 20), guidance=guidance, batch_size=4)


def guidance_option(defaults: Mapping[str, object]) -> str | None:
    """What a pipeline calls its guidance, given its call's defaults; None if it has none."""
    for name in ("guidance_scale", "true_cfg_scale"):
        if isinstance(defaults.get(name), (int, float)):
            return name
    return None


def jobs_for(prompts: Iterable[str], n: int = 1, seed: int = 0, guidance: float | None = None) -> list[Job]:
    """`n` jobs a prompt; image i of a prompt has seed `seed + i`."""
    return repeated([Job(prompt, seed, guidance) for prompt in prompts], n)


def repeated(jobs: Sequence[Job], n: int) -> list[Job]:
    """`n` images a job, with seeds that count up from its own; equal jobs are one, and no seed comes twice."""
    if n < 1:
        raise BadInput(f"{n} images a prompt are none; ask for at least 1.")
    several = {job: [job] for job in jobs}
    taken = set(several)
    for same in several.values():
        while len(same) < n:
            same.append(unlike(same[-1], taken))
    return [job for same in several.values() for job in same]


def unlike(job: Job, taken: set[Job]) -> Job:
    """The job with the next seed at which it is not among those taken, to which it is added."""
    job = next(other for i in count(1) if (other := replace(job, seed=job.seed + i)) not in taken)
    taken.add(job)
    return job
