"""Models that are part of the package, and the closed world that such a model draws.

In a closed world every object, style and word is known, so that prompts, neighbours and guides need not be given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from efface.request.record import folded


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

    @property
    def words(self) -> tuple[str, ...]:
        """All words for the object."""
        return (self.name, *self.synonyms, *self.held_out)


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

    def guide(self, words: str, kind: str, erased: Collection[str]) -> str | None:
        """What to draw in place of an object or a style of this world.

        Args:
            words: A name of the object or style, or a synonym.
            kind: The kind of concept: "object" or "style"; no other kind has a guide here.
            erased: All concepts that are erased together. None of them is a guide.

        Returns:
            The guide, or the nearest neighbour that is not erased; None for unknown words, or if none remains.
        """
        wanted, without = folded(words), {folded(name) for name in erased}
        if kind == "style":
            styles = (style for style in self.styles if wanted in map(folded, (style.name, *style.words)))
            candidates = next(((style.guide,) for style in styles), ())
        elif kind == "object":
            things = (thing for thing in self.objects if wanted in map(folded, thing.words))
            candidates = next(((thing.guide, *thing.near) for thing in things), ())
        else:
            candidates = ()
        return next((guide for guide in candidates if guide and folded(guide) not in without), None)


@dataclass(frozen=True)
class Recommended:
    """What suits a model better than the published defaults of one method.

    Attributes:
        guides: Whether a concept without a guide takes the guide of the model's world.
        settings: Settings of the method, by kind of concept.
    """

    guides: bool = False
    settings: Mapping[str, Mapping[str, bool | int | float | str]] = field(
        default_factory=dict[str, Mapping[str, "bool | int | float | str"]]
    )


@dataclass(frozen=True)
class BuiltIn:
    """A model that is part of the package.

    Attributes:
        folder: Its diffusers folder.
        world: Reads the world that it draws; computed once.
        sampling: The settings that its images are best with, by the names of `Sampling`'s fields.
        pipeline_arguments: Arguments of its pipeline's call that differ from the pipeline's defaults, such as the image
            size.
        recommended: What suits the model better than the published defaults, by method.
    """

    folder: Path
    world: Callable[[], World]
    sampling: Mapping[str, float | str] = field(default_factory=dict[str, "float | str"])
    pipeline_arguments: Mapping[str, int] = field(default_factory=dict[str, int])
    recommended: Mapping[str, Recommended] = field(default_factory=dict[str, Recommended])


class BuiltInFacts:
    """What is known of a model if it is part of the package, and of no other model.

    Attributes:
        built_in: The facts; None for any other model.
    """

    built_in: BuiltIn | None = None

    @property
    def world(self) -> World | None:
        """The closed world that the model draws: its objects, styles and words; None for an open world."""
        return None if self.built_in is None else self.built_in.world()

    @property
    def default_judge(self) -> str | None:
        """Name of the judge for this model's images if the user names none; None if the user must choose."""
        return None if self.world is None else self.world.judge

    @property
    def clip(self) -> str | None:
        """Name, for `open_clip`, of a CLIP that was trained on this model's images; None if there is none."""
        return None if self.world is None else self.world.clip

    @property
    def sampling(self) -> Mapping[str, float | str] | None:
        """Sampling settings that this model's images are best with; None if its family or pipeline decides."""
        return None if self.built_in is None else self.built_in.sampling

    @property
    def recommended(self) -> Mapping[str, Recommended]:
        """Guides and settings that suit the model better than the published defaults, by method."""
        return {} if self.built_in is None else self.built_in.recommended
