"""Jobs, that is, the images to make, and the settings of sampling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    """An embedding that replaces the prompt; two embeddings of equal values are equal.

    Attributes:
        tokens: Of shape (R, d), float32, as from `Model.denoiser_text`.
        hash: SHA-256 of the values.
    """

    tokens: Tensor = field(compare=False, repr=False)
    hash: str

    @classmethod
    def of(cls, tokens: Tensor) -> Embedding:
        """Make an embedding from tokens of shape (R, d)."""
        from efface.files import sha256_of_tensors

        tokens = tokens.detach().float().cpu().contiguous()
        return cls(tokens, sha256_of_tensors({"": tokens}))


@dataclass(frozen=True)
class Job:
    """One image to make.

    Attributes:
        prompt: The text; the empty prompt is allowed.
        seed: The seed of the image's CPU generator, which alone decides its noise.
        guidance: The scale of classifier-free guidance. `None` means that of the sampling settings.
        concept: The concept that the image should show, as a label for judging; the model does not get it.
        negative: The negative prompt. `None` means the empty prompt.
        width: The width in pixels. `None` means the model's default.
        height: The height in pixels. `None` means the model's default.
        embedding: The embedding that replaces that of the prompt; the prompt is then a description only.
        case_number: The number of its row in a published file of prompts, for the metadata; jobs that differ only in it
            are equal.
        prompt_type: The type of the prompt in a dataset, for the metadata: "direct", "indirect" or "adversarial"; empty
            if it has none. Jobs that differ only in it are equal.
        size_in_file: The size in the file of prompts, such as "641x480", if the image's is rounded down from it. It is
            for the metadata only.
        file_name: The name of its file. `None` means a name of the prompt, the seed and the settings.
    """

    prompt: str
    seed: int = 0
    guidance: float | None = None
    concept: str = ""
    negative: str | None = None
    width: int | None = None
    height: int | None = None
    embedding: Embedding | None = None
    case_number: int | None = field(default=None, compare=False)
    prompt_type: str = field(default="", compare=False)
    size_in_file: str = field(default="", compare=False, repr=False)
    file_name: str | None = None

    def __post_init__(self) -> None:
        for side in (self.width, self.height):
            if side is not None and side < 1:
                raise BadInput(f"An image cannot have a side of {side} pixels; give the size in pixels.")
        if not -(2**63) <= self.seed < 2**64:
            raise BadInput(f"Seed {self.seed} does not fit 64 bits; use one between {-(2**63)} and {2**64 - 1}.")


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling. All of them except the batch size are part of an image's provenance.

    Attributes:
        sampler: `dpm++` (DPM-Solver++ of order 2, arXiv 2211.01095), `ddim` (arXiv 2010.02502), `lms`, or `own`: the
            model's own sampler, which SD3 and FLUX need.
        steps: Denoiser evaluations per image and guidance branch.
        guidance: The scale of classifier-free guidance (arXiv 2207.12598); 1 skips the unconditional branch.
        batch_size: Images denoised together. It changes speed and memory, not the images.
        clip_skip: Number of last layers of the text encoder to skip. `None` means the default of the model's family.
        eta: The share of DDPM's noise that DDIM adds in each step: 0 for none, 1 for all of it.
    """

    sampler: Sampler = "dpm++"
    steps: int = 20
    guidance: float = 7.5
    batch_size: int = 16
    clip_skip: int | None = None
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise BadInput(f"Unknown sampler '{self.sampler}'; there is: {', '.join(SAMPLERS)}.")
        if self.steps < 1 or self.batch_size < 1:
            raise BadInput(f"Steps ({self.steps}) and batch size ({self.batch_size}) must be at least 1.")
        if not self.guidance >= 0:
            raise BadInput(f"Guidance {self.guidance} must be 0 or more.")
        if not 0 <= self.eta <= 1:
            raise BadInput(f"eta {self.eta} must be between 0 and 1.")
        if self.eta and self.sampler != "ddim":
            raise BadInput(f"eta is a setting of DDIM and not of the sampler '{self.sampler}'; add --sampler ddim.")

    @classmethod
    def default(cls, model: Model) -> Sampling:
        """The recommended settings of a model.

        For a built-in model they were measured. For Stable Diffusion they are the customary ones; for other families,
        the defaults of their pipelines.
        """
        if model.sampling is not None:
            return cls(**dict[str, Any](model.sampling))
        if model.call_parameters is None:
            return cls()
        defaults = {name: parameter.default for name, parameter in model.call_parameters.items()}
        option = model.guidance_argument
        guidance = 1.0 if option is None else defaults[option]
        return cls(sampler="own", steps=defaults.get("num_inference_steps", 20), guidance=guidance, batch_size=4)


def jobs_for(prompts: Iterable[str], n: int = 1, seed: int = 0, guidance: float | None = None) -> list[Job]:
    """Make `n` jobs per prompt; image i of a prompt has seed `seed + i`.

    Args:
        prompts: The prompts.
        n: Images per prompt.
        seed: The seed of the first image of each prompt.
        guidance: The scale of classifier-free guidance. `None` means that of the sampling settings.

    Raises:
        BadInput: `n` is less than 1.
    """
    return repeated([Job(prompt, seed, guidance) for prompt in prompts], n)


def repeated(jobs: Sequence[Job], n: int) -> list[Job]:
    """Repeat each job `n` times with increasing seeds. Equal jobs count as one, and no two results are equal.

    Raises:
        BadInput: `n` is less than 1.
    """
    _check_count(n)
    copies = {job: [job] for job in jobs}
    taken = set(copies)
    for of_one in copies.values():
        while len(of_one) < n:
            of_one.append(with_next_seed(of_one[-1], taken))
    return [job for of_one in copies.values() for job in of_one]


def repeated_by_case(jobs: Sequence[Job], n: int) -> list[Job]:
    """Repeat each job `n` times, image i with seed + i and in the file `CASE_i.png`, where CASE is its case number.

    Raises:
        BadInput: `n` is less than 1, a job has no case number, or two jobs have the same one.
    """
    _check_count(n)
    taken = set[int]()
    for job in jobs:
        if job.case_number is None:
            raise BadInput(f"The prompt '{job.prompt}' has no case_number; leave --file-names out.")
        if job.case_number in taken:
            raise BadInput(f"Two prompts have the case_number {job.case_number}; leave --file-names out.")
        taken.add(job.case_number)
    return [replace(job, seed=job.seed + i, file_name=f"{job.case_number}_{i}.png") for job in jobs for i in range(n)]


def _check_count(n: int) -> None:
    if n < 1:
        raise BadInput(f"The number of images per prompt is {n}; it must be at least 1.")


def with_next_seed(job: Job, taken: set[Job]) -> Job:
    """The job with the next seed that makes it differ from all jobs in `taken`; it is added to these."""
    job = next(other for i in count(1) if (other := replace(job, seed=job.seed + i)) not in taken)
    taken.add(job)
    return job
