"""The request: concepts to erase, their guides, prompts to preserve, method and settings; one record, one YAML file."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

import yaml
from pydantic import BeforeValidator, Field, field_validator, model_validator

from efface.errors import BadRequest
from efface.files import atomic
from efface.parsing import read_yaml
from efface.request.captions import read_captions
from efface.request.mu import from_mu, is_mu
from efface.request.several import check_one_name
from efface.settings import Scalar, Settings

Kind = Literal["object", "style", "memorised", "unsafe"]
Goal = Literal["erase", "debias"]

KINDS: tuple[Kind, ...] = get_args(Kind)
#: Methods that read a concept as a sentence, such as safe latent diffusion's list of unsafe themes.
_READ_SENTENCES = ("ablate", "sld", "negative")
COMPOSED = "composed"  # the method of a request that composed erasers with different methods fulfil together
REFERENCE_KINDS = {"art": "style", "memorization": "memorised", "memorized": "memorised", "nudity": "unsafe"}


def _kind(value: object) -> object:
    """Accept the references' words for a kind."""
    return REFERENCE_KINDS.get(value, value) if isinstance(value, str) else value


class Concept(Settings):
    """A concept to erase.

    Attributes:
        name: The concept's words as in a prompt ("golf ball").
        kind: The kind of concept, which sets a method's defaults.
        guide: The concept to draw instead. None means the method's default for the kind.
        attributes: For the goal "debias", the target share of each attribute: {"man": 0.5, "woman": 0.5}.
        aliases: Synonyms, for the "indirect" prompts of evaluations; methods edit only the name.
        adjacent: Similar concepts that must be preserved.
        adversarial: Prompts that try to restore the concept.
    """

    name: str
    kind: Annotated[Kind, BeforeValidator(_kind)] = "object"
    guide: str | None = None
    attributes: dict[str, float] = Field(default_factory=dict[str, float])
    aliases: tuple[str, ...] = ()
    adjacent: tuple[str, ...] = ()
    adversarial: tuple[str, ...] = ()

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        if not name.strip():
            raise BadRequest("A concept's name is empty; write the words of the concept to erase.")
        return name.strip()

    @field_validator("name", "guide", "aliases", "adjacent", "adversarial")
    @classmethod
    def _in_one_form(cls, texts: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        return tuple(map(normalised, texts)) if isinstance(texts, tuple) else texts and normalised(texts)

    @field_validator("attributes")
    @classmethod
    def _shared(cls, attributes: dict[str, float]) -> dict[str, float]:
        shares = attributes.values()
        if attributes and (len(attributes) < 2 or not all(name.strip() for name in attributes)):
            raise BadRequest("Debiasing needs two attributes or more, each in words, e.g. --to man --to woman.")
        if attributes and (min(shares) < 0 or abs(sum(shares) - 1) > 0.01):
            listed = ", ".join(f"{name} {share:g}" for name, share in attributes.items())
            raise BadRequest(f"The shares of the attributes must be 0 or more and add up to 1, not {listed}.")
        return attributes


def _concepts(value: object) -> object:
    """Turn plain words into concepts with these names."""
    if isinstance(value, (list, tuple)):
        return tuple({"name": item} if isinstance(item, str) else item for item in cast(Sequence[object], value))
    return value


def folded(words: str) -> str:
    """Words without differences that text encoders ignore: case, Unicode form, and space around and between words."""
    return normalised(" ".join(words.split()).casefold())


def normalised(text: str) -> str:
    """Text in one Unicode form (NFC), so that "é" as one or as two characters is the same; tokenizers do this too."""
    return unicodedata.normalize("NFC", text)


class Request(Settings):
    """The concepts to erase, and how to erase them.

    Attributes:
        concepts: The concepts: at least one, with distinct names.
        preserve: Prompts whose keys and values are preserved.
        method: Name of the method.
        goal: "erase", or, for methods that support it, "debias": draw the attributes of a concept in their target
            shares. A composition of both kinds has the goal "erase"; its concepts with attributes are debiased.
        options: The method's settings, by their names in the reference.
        clip_skip: Number of last layers of the text encoder that the pipeline skips. None means the family's default.
        pooled: Whether to edit the pooled text embedding too, in families with a separate linear map for it (SD3,
            FLUX).
    """

    concepts: Annotated[tuple[Concept, ...], BeforeValidator(_concepts)]
    preserve: tuple[str, ...] = ()
    method: str = "uce"
    goal: Goal = "erase"
    options: dict[str, Scalar] = Field(default_factory=dict[str, Scalar])
    clip_skip: int | None = Field(default=None, ge=0)
    pooled: bool = True

    @field_validator("preserve")
    @classmethod
    def _in_one_form(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(normalised(prompt.strip()) for prompt in prompts))  # twice would weigh twice

    @model_validator(mode="after")
    def _consistent(self) -> Request:
        if not self.concepts:
            raise BadRequest("A request needs at least one concept to erase.")
        seen: set[str] = set()
        for concept in self.concepts:
            key = folded(concept.name)
            if key in seen:
                raise BadRequest(f"The concept '{concept.name}' occurs twice; write it once.")
            if concept.guide is not None and folded(concept.guide) == key:
                raise BadRequest(f"The guide of '{concept.name}' is the concept itself; choose another guide.")
            fits = (self.goal == "debias") == bool(concept.attributes) or self.method == COMPOSED
            if not fits or (concept.attributes and concept.guide is not None):
                raise BadRequest(
                    f"'{concept.name}' needs attributes, and no guide, to be debiased, e.g. --to man --to woman; "
                    "to be erased it has a guide at most."
                )
            seen.add(key)
        both = [prompt for prompt in self.preserve if folded(prompt) in seen]
        if both:
            raise BadRequest(f"'{both[0]}' is both erased and preserved; remove it from one of the two lists.")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The concepts' names."""
        return tuple(concept.name for concept in self.concepts)

    @classmethod
    def make(
        cls,
        concepts: str | Sequence[str],
        to: str | Sequence[str] | None = (),
        *,
        kind: str = "object",
        preserve: Sequence[str] | None = (),
        method: str = "uce",
        goal: str = "erase",
        options: Mapping[str, Scalar] | None = None,
        clip_skip: int | None = None,
    ) -> Request:
        """Make a request from plain words.

        For the goal "debias", `to` has the attributes of every concept, and the option `shares` their target shares in
        order ("0.3,0.7"; the reference calls it `desired_ratios`). The default is equal shares.

        Args:
            concepts: Names of the concepts; for the method ablate also ANCHOR+TARGET (`efface.request.captions`).
            to: One guide for all concepts, or one guide for each.
            kind: The kind of all concepts.
            preserve: Prompts to preserve.
            method: Name of the method.
            goal: "erase" or "debias".
            options: The method's settings.
            clip_skip: Number of last layers of the text encoder that the pipeline skips.

        Raises:
            BadRequest: The number of guides does not fit, or the request contradicts itself.
        """
        names = [concepts] if isinstance(concepts, str) else list(concepts)
        options = dict(options or {})
        guides: list[str | None] = [to] if isinstance(to, str) else list(to or ())
        if method == "ablate" and REFERENCE_KINDS.get(kind, kind) != "memorised":  # a caption may have any characters
            names, guides = read_captions(names, guides)
        is_one = REFERENCE_KINDS.get(kind, kind) == "memorised" or method in _READ_SENTENCES
        if not is_one and not options.get("separator"):  # of mu's ESD, which splits the name itself
            for text, option in (*((name, "") for name in names), *((guide or "", "--to") for guide in guides)):
                check_one_name(text, option)
        attributes: dict[str, float] = {}
        if goal == "debias":
            if "shares" in options and options.get("desired_ratios", options["shares"]) != options["shares"]:
                raise BadRequest("shares and desired_ratios are one setting with two values; write one of them.")
            shares = options.pop("shares", options.pop("desired_ratios", None))
            attributes, guides = _attribute_shares([guide or "" for guide in guides], shares), []
        if len(guides) <= 1:
            guides = (guides or [None]) * len(names)
        if len(guides) != len(names):
            raise BadRequest(
                f"{len(names)} concepts but {len(guides)} guides; name one guide for all, or one for each concept."
            )
        checked = tuple(
            Concept.model_validate({"name": name, "kind": kind, "guide": guide, "attributes": attributes})
            for name, guide in zip(names, guides, strict=True)
        )
        return cls.model_validate(
            {
                "concepts": checked,
                "preserve": tuple(preserve or ()),
                "method": method,
                "goal": goal,
                "options": options,
                "clip_skip": clip_skip,
            }
        )

    def keeping(self, names: Sequence[str]) -> Request:
        """The same request for some of its concepts only, in the request's order.

        Raises:
            BadRequest: The request does not have one of the names, or no concept remains.
        """
        wanted = {folded(name): name for name in names}
        remaining = tuple(concept for concept in self.concepts if wanted.pop(folded(concept.name), None) is not None)
        if wanted:
            unknown = next(iter(wanted.values()))
            raise BadRequest(f"The request has no concept '{unknown}'; it has: {', '.join(self.names)}.")
        if not remaining:
            raise BadRequest("That leaves no concept to erase; detach the eraser instead.")
        return self.model_copy(update={"concepts": remaining})

    @classmethod
    def from_yaml(cls, path: Path | str) -> Request:
        """Read a request; concepts may be plain words or records. `mu`'s train_config.yaml is accepted too.

        Raises:
            BadFile: The file cannot be read.
            BadRequest: The file is not a valid request.
        """
        path = Path(path)
        content = read_yaml(path, "the request")
        if not isinstance(content, dict):
            raise BadRequest(f"The request {path} must be a YAML mapping with the key 'concepts'.")
        return cls.model_validate(from_mu(content, path) if is_mu(content) else content)

    def to_yaml(self, path: Path | str, force: bool = True) -> None:
        """Write the request; `from_yaml` reads an equal one."""
        content = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        with atomic(Path(path), force) as temporary:
            temporary.write_text(content, encoding="utf-8")


def _attribute_shares(names: list[str], shares: Scalar | None) -> dict[str, float]:
    """Attributes with their shares, which are numbers separated by commas; None means equal shares."""
    if len(set(names)) != len(names):
        raise BadRequest(f"An attribute occurs twice in {', '.join(names)}; write each once.")
    if shares is None:
        return {name: 1 / len(names) for name in names}
    try:
        numbers = [float(share) for share in str(shares).split(",")]
    except ValueError:
        raise BadRequest(f"shares is {shares!r}; write numbers separated by commas, e.g. shares=0.5,0.5.") from None
    if len(numbers) != len(names):
        raise BadRequest(f"{len(names)} attributes but {len(numbers)} shares; write one share for each --to, in order.")
    return dict(zip(names, numbers, strict=True))
