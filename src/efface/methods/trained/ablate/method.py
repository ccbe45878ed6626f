"""Concept ablation: trains the model to read a concept as its anchor, on images of the anchor.

    x      an image of an anchor prompt c ("a photo of a cat"); c*: the same with the concept ("a grumpy cat")
    x_t    x with noise n, t uniform over all timesteps; m: the latents that show the image, 0 or 1
    loss = sum( m (e(x_t, c*) - target)^2 ) / sum m,  averaged over samples; the sums run over channels, m has one
    target: model-based  sg[ e(x_t, c) ], by the model in training (or by the base, `teacher=frozen`)
            noise-based  n
    regularization: + prior_loss_weight mean (e(x'_t, c') - n')^2, on other anchor images and prompts

sg stops the gradient. In e(x_t, c*), the gradient through the keys and values of the start token is stopped too. AdamW
(weight decay 0.01), gradients clipped to norm 1. Images that are shrunk or enlarged (`augment`) are encoded in each
step; others, and their mirror images, once.

The published teacher is the model in training, which avoids a second network. Here the base is available anyway.

Paper: https://arxiv.org/abs/2303.13516 (ICCV 2023). Reference: https://github.com/nupurkmr9/concept-ablation (c11fb1b):
the CompVis code of the paper, and later code for diffusers. They generate anchor images by DDIM with 200 steps and eta
1, or by DPM-Solver++ with 25 steps, as here; both with guidance scale 6.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efface.edits.kinds import Edit, WeightEdit
from efface.edits.solution import Solution
from efface.errors import BadFile, BadRequest, NothingToImport
from efface.files import sha256_of_tensors, slug
from efface.image_files import read_picture
from efface.methods.base import CopyDetector, EraserReader, Method, Pictures, SnapshotWriter
from efface.methods.trained.ablate.augment import View, augmented, mirrored, unchanged_view
from efface.methods.trained.ablate.config import AblateConfig
from efface.methods.trained.ablate.images import AnchorImage, AnchorImages, CachedEncoder
from efface.methods.trained.ablate.prompts import anchor_of, target_prompt
from efface.methods.trained.ablate.weights import BaseText, Reader, TokenRows, group_parameters, start_detached
from efface.methods.training.objective import Batch, Losses, Objective, seeded
from efface.methods.training.run import combine_components, train_concepts
from efface.methods.training.weights import Copies, Networks, Weights, check_trainable, frozen
from efface.models.denoising import check_encodes, latents_of_encoding
from efface.models.model import Model
from efface.progress import RunContext
from efface.request.record import Request


class Ablate(Objective):
    """The objective of concept ablation for the first concept of a request.

    Args:
        model: The base.
        request: The request with the concept and its guide.
        config: The settings.
        pictures: Generates and reads images.
        copies: Detects copies of a memorised image.
        folder: Where generated images stay; None to store none.
        start: The edits to start from.

    Raises:
        BadRequest: The edits change parameters that are not trained.
    """

    def __init__(
        self,
        model: Model,
        request: Request,
        config: AblateConfig,
        pictures: Pictures,
        copies: CopyDetector | None = None,
        folder: Path | None = None,
        start: Sequence[Edit] = (),
    ) -> None:
        from accelerate import PartialState

        self._concept = request.concepts[0]
        self._model, self._config = model, config
        self._chosen = config.chosen(self._concept.kind)
        self.iterations, self.clip_norm = self._chosen.train_max_steps, config.max_grad_norm
        self._base = BaseText(model, request.clip_skip)
        self._reader: Reader
        if self._chosen.parameter_group == "embedding":
            weights = self._reader = TokenRows(model, [self._concept.name], request.clip_skip)
        else:
            weights = Copies(model.denoiser, group_parameters(model.denoiser, self._chosen.parameter_group))
            self._reader = self._base
        self.weights: Weights = weights
        self._add(start, weights)
        self._networks = Networks(model, self.weights)
        self._schedule = model.noise_schedule()
        self._factor = model.pixels_per_latent
        size = min(model.latent_shape[1:]) * self._factor
        check_encodes(model.vae)
        anchors = AnchorImages(model, self._concept, config, pictures, copies, size, request.clip_skip, folder)
        self._targets = anchors.source.targets
        self._encoded = CachedEncoder(model.vae, model.device)
        processes = PartialState()
        self._slots = processes.num_processes * config.gradient_accumulation_steps
        of_process = range(processes.process_index, self._slots, processes.num_processes)
        needed = self.iterations * self._chosen.batch_size
        self._images = {slot: anchors.of_slot(slot, self._slots, needed) for slot in of_process}
        digest = anchors.source.digest + (sha256_of_tensors(self.weights.state_dict()) if start else "")
        self.data = self._digest(digest)
        self.notes: Mapping[str, Any] = {"anchors": list(anchors.source.captions), "targets": list(self._targets)}

    def _add(self, edits: Sequence[Edit], weights: Copies | TokenRows) -> None:
        """Add the edits of `resume_from_checkpoint_custom` to the weights."""
        others = ["more than weights" for edit in edits if not isinstance(edit, WeightEdit)]
        others += weights.add([edit for edit in edits if isinstance(edit, WeightEdit)])
        if others:
            raise BadRequest(
                f"ablate cannot start from {self._config.resume_from_checkpoint_custom}: it changes {others[0]}, which "
                f"parameter_group={self._chosen.parameter_group} does not train; choose another group, or --after."
            )

    def optimizer(self) -> torch.optim.Optimizer:
        samples = self._chosen.batch_size * self._slots if self._config.scale_lr else 1
        return torch.optim.AdamW(self.weights.parameters(), lr=self._chosen.base_lr * samples, weight_decay=1e-2)

    def batch(self, slot: int, step: int) -> Batch:
        config, chosen, generator = self._config, self._chosen, seeded(self._config.seed, slot, step)
        first = step * chosen.batch_size
        indices = range(first, first + chosen.batch_size)
        images = [self._image(slot, index) for index in indices]
        targets = [self._targets[index % len(self._targets)] for index in indices]
        views = [self._view(image, chosen.aug, generator) for image in images]
        captions = [image.caption for image in images]
        ablated = [
            view.prefix + target_prompt(caption, target, self._concept, generator)
            for view, caption, target in zip(views, captions, targets, strict=True)
        ]
        x, t, noise = self._noised(views, generator)
        target = self._anchor_prediction(x, t, captions) if config.loss_type_reverse == "model-based" else noise
        batch = {"x": x, "t": t, "text": self._reader.prepare(ablated), "target": target}
        if chosen.regularization:
            others = [self._image(slot, index + len(self._images[slot]) // 2) for index in indices]
            x, t, noise = self._noised([self._view(image, False, generator) for image in others], generator)
            text = self._reader.prepare([image.caption for image in others])
            prior = {"x": x, "t": t, "text": text, "target": noise}
            batch = {name: torch.cat([tensor, prior[name]]) for name, tensor in batch.items()}
        return {**batch, "mask": torch.stack([view.mask for view in views]).to(self._model.device)}

    def loss(self, batch: Batch) -> Losses:
        with start_detached(self._model.denoiser):
            predicted = self._networks.student(batch["x"], batch["t"], self._reader.read(batch["text"]))
        square, mask = (predicted - batch["target"]).square(), batch["mask"]
        ablation = ((square[: len(mask)] * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))).mean()
        if len(square) == len(mask):
            return {"loss": ablation}
        prior = square[len(mask) :].mean()
        return {"loss": ablation + self._config.prior_loss_weight * prior, "ablation": ablation, "prior": prior}

    def _digest(self, source: str) -> str:
        """A hash of the source and of the images of each slot, which depend on the copy detector."""
        from accelerate.utils import gather_object

        used = gather_object([(slot, [image.number for image in images]) for slot, images in self._images.items()])
        return hashlib.sha256(json.dumps([source, sorted(used)]).encode()).hexdigest()

    def _image(self, slot: int, index: int) -> AnchorImage:
        images = self._images[slot]
        return images[index % len(images)]

    def _view(self, image: AnchorImage, aug: bool, generator: torch.Generator) -> View:
        picture = view = image.picture.float() / 127.5 - 1
        if self._config.hflip:
            view = mirrored(picture, generator)
        if aug:
            return augmented(view, self._factor, generator)
        return unchanged_view(view, self._factor)._replace(key=(image.number, view is not picture))

    def _noised(self, views: list[View], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The noisy latents x_t (b, C, h, w), t (b,), and the target of the original training loss, (b, C, h, w)."""
        device, b = self._model.device, len(views)
        mean, deviation = self._encoded(views)
        spread = torch.randn(mean.shape, generator=generator).to(device)
        latents = latents_of_encoding(mean + deviation * spread, self._model.vae.config)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        t = torch.randint(self._schedule.timesteps, (b,), generator=generator).to(device)
        return self._schedule.add_noise(latents, noise, t), t, self._schedule.target(latents, noise, t)

    def _anchor_prediction(self, x: Tensor, t: Tensor, captions: list[str]) -> Tensor:
        """The prediction for the anchor prompts, (b, C, h, w), of the model in training or of the base."""
        if self._config.teacher == "frozen":
            return self._networks.teacher(x, t, self._base.prepare(captions))
        return self._networks.student(x, t, self._reader.read(self._reader.prepare(captions)))


def erase(
    model: Model,
    request: Request,
    config: AblateConfig,
    context: RunContext,
    write_snapshot: SnapshotWriter,
    pictures: Pictures,
    read_eraser: EraserReader,
    copies: CopyDetector | None = None,
) -> Solution:
    """Train each concept, starting from the base, or one from the weights of a file.

    Args:
        model: The model.
        request: The concepts and their guides.
        config: The settings.
        context: The folder for checkpoints, and the progress callback.
        write_snapshot: Writes erasers of intermediate steps.
        pictures: Generates and reads images.
        read_eraser: Reads the file of `resume_from_checkpoint_custom`.
        copies: Detects copies of a memorised image.

    Raises:
        BadRequest: The request or the settings cannot be used; see `check_ablation`.
    """
    check_trainable(model)
    model.embed(
        request.names, clip_skip=request.clip_skip
    )  # refuses a name that is too long before any image is generated
    check_ablation(request, config, copies)
    start = _edits_to_start_from(config.resume_from_checkpoint_custom, read_eraser)
    notes: dict[str, Any] = {}

    def objective(part: Request) -> Ablate:
        folder = context.folder and context.folder / "images" / slug(part.names[0])
        ablate = Ablate(model, part, config, pictures, copies, folder, start)
        notes[part.names[0]] = ablate.notes
        return ablate

    with frozen(model.text_encoder):
        solution = train_concepts(model, request, config, context, write_snapshot, objective)
    return replace(solution, notes={**solution.notes, "ablated": notes})


def _edits_to_start_from(file: str | None, read_eraser: EraserReader) -> Sequence[Edit]:
    """The edits of a file; none without a file, or if it has the weights of the model itself."""
    try:
        return read_eraser(file) if file else ()
    except NothingToImport:
        return ()


def check_ablation(request: Request, config: AblateConfig, copies: CopyDetector | None) -> None:
    """Check a request and its settings before any image is generated.

    Args:
        request: The request.
        config: The settings.
        copies: The copy detector.

    Raises:
        BadFile: The memorised image cannot be read.
        BadRequest: An anchor, a memorised image or a detector is missing, or the settings contradict each other.
    """
    memorised = [concept for concept in request.concepts if concept.kind == "memorised"]
    for concept in request.concepts:
        anchor_of(concept)
    if config.resume_from_checkpoint_custom and len(request.concepts) > 1:
        raise BadRequest("resume_from_checkpoint_custom is the start of one concept; ablate the concepts one by one.")
    if not memorised:
        if config.mem_impath:
            raise BadRequest("mem_impath is for a memorised image; add --kind memorised, or leave it out.")
        return
    if memorised[0].guide:
        message = f"ablate has no guide for a memorised image; '{memorised[0].guide}' does not change its result."
        warnings.warn(message, stacklevel=2)
    if not config.mem_impath:
        raise BadRequest(f"To ablate the memorised '{memorised[0].name}', give its image with -s mem_impath=FILE.")
    if not Path(config.mem_impath).is_file():
        raise BadFile(f"Cannot read the memorised image {config.mem_impath}: there is no such file.")
    if len(memorised) > 1:
        raise BadRequest("mem_impath is one image; ablate memorised images one by one, and compose the erasers.")
    if config.chosen("memorised").parameter_group == "embedding":
        raise BadRequest("parameter_group=embedding is not for memorised images; leave it out, or choose another.")
    if copies is None:
        raise BadRequest(
            "A memorised image needs a copy detector; give one with --judge sscd:FILE --trust-torchscript."
        )
    try:
        read_picture(Path(config.mem_impath))
    except OSError as error:
        raise BadFile(f"Cannot read the memorised image {config.mem_impath}: {error}.") from error


ENTRY = Method(
    name="ablate",
    summary="Trains the model to read a concept as its anchor, on images of the anchor.",
    paper="https://arxiv.org/abs/2303.13516",
    repository="https://github.com/nupurkmr9/concept-ablation",
    edit="weight",
    config=AblateConfig,
    erase=erase,
    combine=combine_components,
    uses_preserve=False,
    needs=("context", "write_snapshot", "pictures", "copies", "read_eraser"),
    families=("sd", "sdxl", "sd3", "flux", "generic"),
    published={"save_freq": 100},
)
