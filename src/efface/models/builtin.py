"""Models that are part of the package, and the closed world that such a model draws.

In a closed world every object, style and word is known, so that prompts, neighbours and guides need not be given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class WorldObject:
    """An object of a closed world.

    Attributes:
        name: The word that the model was trained with most.
        synonyms: Other words of the denoiser's captions.
        held_out: Words that only the text encoder was trained on.
        near: Names of the nearest neighbours.
        guide: The object to draw instead when this one is erased.
        theme: The group that it belongs to ("weapon"), or "".
    """

    name: str
    synonyms: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    guide: str = ""
    theme: str = ""


@dataclass(frozen=True)
class WorldStyle:
    """A style of a closed world.

    Attributes:
        name: Its name.
        words: The words of the captions.
        guide: The style to draw instead when this one is erased.
    """

    name: str
    words: tuple[str, ...] = ()
    guide: str = ""


@dataclass(frozen=True)
class World:
    """A closed world.

    Attributes:
        objects: What there is to draw.
        styles: In which styles.
        templates: Captions, with `{object}` and `{style}`.
        held_out_cells: (object, style) pairs that the denoiser was not trained on.
        memorised: The caption that the model was made to memorise.
        memorised_picture: The picture behind that caption.
        judge: Name of the judge that recognises the objects and styles.
        clip: Name of the CLIP that was trained in this world, for `open_clip`.
    """

    objects: tuple[WorldObject, ...]
    styles: tuple[WorldStyle, ...]
    templates: tuple[str, ...]
    held_out_cells: tuple[tuple[str, str], ...]
    memorised: str
    memorised_picture: Path
    judge: str
    clip: str


@dataclass(frozen=True)
class BuiltIn:
    """A model that is part of the package.

    Attributes:
        folder: Its diffusers folder.
        world: Reads the world that it draws; computed once.
        sampling: The settings that its images are best with, by the names of `Sampling`'s fields.
        pipeline_arguments: Arguments of its pipeline's call that differ from the pipeline's defaults, such as the image
            size.
    """

    folder: Path
    world: Callable[[], World]
    sampling: Mapping[str, float | str] = field(default_factory=dict[str, "float | str"])
    pipeline_arguments: Mapping[str, int] = field(default_factory=dict[str, int])
