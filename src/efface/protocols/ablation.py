"""The `ablation` protocol: the ablated concept, its anchor and its hard negatives, as Concept Ablation measures them.

Kumari et al., "Ablating Concepts in Text-to-Image Diffusion Models", arXiv 2303.13516;
https://github.com/nupurkmr9/concept-ablation (compvis/evaluate.py, assets/eval.json). Of each of the three groups

    GROUP_clip_score     2.5 max(cos, 0) of its images with "A photo depicts NAME" (styles: "NAME style"), ViT-B/32
    GROUP_clip_accuracy  share of its images closer to its own name than to the anchor's; not of the anchor itself
    GROUP_kid            KID to the unedited model's images of the same prompts and seeds

with GROUP one of target, anchor and hard_negative; of several hard negatives, the mean KID. Images that the eraser left
as they were are below zero there: the estimator takes the two sets as independent. The judge says besides in
how many images the target is absent (`forget`), and the anchor and the hard negatives are found (`anchor`,
`hard_negative`; together `retain`).

`--data FOLDER` is the reference's assets, with eval.json and eval_prompts; objects' prompts are the anchor's with
another name in them. Without it, anchor and hard negatives are the concept's guide and neighbours, from the request or
on the embedded model its catalogue, in plain templates. Hard negatives that are erased too are left out.
4 n images of target and anchor, n of each hard negative; the paper has n = 50, guidance 6 and 50 steps of DDIM at
eta 1, which here is at eta 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from efface.generation import Job
from efface.judges import Judge
from efface.judges.wrappers import WithPeers
from efface.metrics.bootstrap import Array, Statistic
from efface.metrics.clip_score import ABLATION, score_table
from efface.metrics.distance import measure_distance
from efface.metrics.features import Features
from efface.metrics.kid import kid_statistic
from efface.protocols.ablation_sets import Named, Sets, sets_for
from efface.protocols.answers import Count, Judged
from efface.protocols.base import BASE, Probe
from efface.protocols.image_scores import Looks, Scores, Vectors, as_set, both, clip_of, open_looks, scored, shared
from efface.protocols.paper_sampling import Published
from efface.protocols.planned import planned
from efface.protocols.plans import Asked, BeforeAfter, Plan, Prepared, good
from efface.protocols.probes.requests import take_turns
from efface.settings import Settings

GUIDANCE, TIMES, DRAWS = 6.0, 4, 500
GROUPS = ("target", "anchor", "hard_negative")
MEASURES = ("clip_score", "clip_accuracy", "kid")


class Config(Settings):
    """What `-s` sets.

    Attributes:
        clip: The CLIP that scores: a folder or hub id; empty for ViT-B/32, on the embedded model its own.
        extractor: Of KID's features; empty for one that needs no download.
        guidance: Of all images; by default 6, and on the embedded model the model's own.
    """

    clip: str = ""
    extractor: str = ""
    guidance: float | None = None


#: By group, the probes of each concept in it: one of target and anchor, several of the hard negatives.
Groups = Mapping[str, Sequence[tuple[Probe, ...]]]


def prepare(asked: Asked) -> Prepared:
    """The sets of every concept."""
    config = Config.model_validate(asked.inputs.options)
    guidance = GUIDANCE if config.guidance is None and not asked.is_emoji else config.guidance
    sets = {name: [sets_for(asked, concept, r.names) for concept in r.concepts] for name, r in asked.requests.items()}
    groups = {name: [_groups(one, asked, guidance) for one in several] for name, several in sets.items()}
    rates = {
        "forget": good("forget"),
        "anchor": good("anchor"),
        "hard_negative": good("adjacent"),
        "retain": good("anchor", "adjacent"),
    }
    plans = {name: _plan(several, asked.judge, rates) for name, several in groups.items()}
    clip = clip_of(asked, config.clip)
    said = {name: _said(several) for name, several in sets.items()}
    texts = list(dict.fromkeys(text for texts in said.values() for text in texts.values()))
    scores = Looks(ABLATION.version(clip), lambda images: score_table(clip, images, texts, ABLATION))
    judge = WithPeers(asked.judge, (concept for names in said.values() for concept in names))
    return Prepared(plans, judge, _Scores(groups, said, texts, scores, open_looks(asked, config.extractor)))


def _plan(several: Sequence[Groups], judge: Judge, rates: Mapping[str, Count]) -> Plan:
    """Every image; of the others than the target, the judge is asked what it knows."""
    probes = [probe for groups in several for parts in groups.values() for part in parts for probe in part]
    asked = tuple(probe for probe in probes if probe.metric == "forget" or judge.knows(probe.concept))
    return Plan(asked, rates, tuple(probe.job for probe in probes))


def _groups(sets: Sets, asked: Asked, guidance: float | None) -> Groups:
    def drawn(metric: str, named: Named, n: int, guide: str | None = None) -> tuple[Probe, ...]:
        cells = [(named.name, prompt) for prompt in named.prompts]
        probes = take_turns(metric, cells, n, asked.seed, guide)
        return tuple(replace(probe, job=replace(probe.job, guidance=guidance)) for probe in probes)

    return {
        "target": [drawn("forget", sets.target, TIMES * asked.n, sets.anchor.name)],
        "anchor": [drawn("anchor", sets.anchor, TIMES * asked.n)],
        "hard_negative": [drawn("adjacent", named, asked.n) for named in sets.hard_negatives],
    }


def _said(several: Sequence[Sets]) -> dict[str, str]:
    """What CLIP is asked of each name."""
    return {
        named.name: f"{named.name} style" if sets.is_style else named.name
        for sets in several
        for named in (sets.target, sets.anchor, *sets.hard_negatives)
    }


class _Scores:
    """The three numbers of each group.

    Args:
        groups: By eraser, of each of its concepts.
        said: By eraser, what CLIP is asked of each name.
        texts: What the columns of `scores` are.
        scores: CLIP scores with all texts.
        looks: Features for KID.
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[Groups]],
        said: Mapping[str, Mapping[str, str]],
        texts: Sequence[str],
        scores: Looks,
        looks: Looks,
    ) -> None:
        self.groups = {**groups, BASE: [one for several in groups.values() for one in several]}
        self.said = {**said, BASE: {name: text for names in said.values() for name, text in names.items()}}
        self.column = {text: i for i, text in enumerate(texts)}
        self.scores, self.looks = scores, looks

    def __call__(self, name: str, edited: Judged, base: Judged) -> tuple[dict[str, BeforeAfter], set[Job]]:
        found: dict[str, BeforeAfter | None] = {}
        unread: set[Job] = set()
        for group in GROUPS:
            # Each image with its own name's text and the anchor's.
            asked = {
                probe.job: (self._text(name, probe), self._text(name, one["anchor"][0][0]))
                for one in self.groups[name]
                for part in one[group]
                for probe in part
            }
            after = self.scores(edited, asked)
            unread |= asked.keys() - after.keys()
            before = {} if name == BASE else self.scores(base, asked)
            own, wins = ([of(table, asked, self.column) for table in (after, before)] for of in (_own, _wins))
            found[f"{group}_clip_score"] = scored(self.scores.version, *own)
            if group != "anchor":
                found[f"{group}_clip_accuracy"] = shared(self.scores.version, *wins)
            if name != BASE:
                parts = [[probe.job for probe in part] for one in self.groups[name] for part in one[group]]
                found[f"{group}_kid"] = self._kid([both(self.looks(edited, p), self.looks(base, p)) for p in parts])
        return {metric: measured for metric, measured in found.items() if measured}, unread

    def _text(self, name: str, probe: Probe) -> str:
        return self.said[name][probe.concept]

    def _kid(self, parts: Sequence[tuple[Vectors, Vectors]]) -> BeforeAfter | None:
        """The mean KID of several sets to the unedited model's."""
        kept = [(as_set(x, self.looks.version), as_set(y, self.looks.version)) for x, y in parts if len(x) > 1]
        if not kept:
            return None
        x, y = (joined([pair[i] for pair in kept]) for i in (0, 1))
        note = "the unedited model's" + (f", mean over {len(kept)} sets" if len(kept) > 1 else "")
        return BeforeAfter(
            measure_distance(mean_of(kid_statistic(), [len(pair[0]) for pair in kept]), x, y, DRAWS, note)
        )


def _own(table: Vectors, asked: Mapping[Job, tuple[str, str]], column: Mapping[str, int]) -> Scores:
    """The score of each image with its own name."""
    return {job: float(row[column[asked[job][0]]]) for job, row in table.items()}


def _wins(table: Vectors, asked: Mapping[Job, tuple[str, str]], column: Mapping[str, int]) -> Scores:
    """1 for each image that is closer to its own name than to the anchor's."""
    return {job: float(row[column[asked[job][0]]] > row[column[asked[job][1]]]) for job, row in table.items()}


def joined(sets: Sequence[Features]) -> Features:
    """Several sets in one."""
    prompts = tuple(prompt for one in sets for prompt in one.prompts or ())
    return Features(np.concatenate([one.values for one in sets]), sets[0].extractor, prompts)


def mean_of(distance: Statistic, sizes: Sequence[int]) -> Statistic:
    """The mean distance over sets that lie one behind the other, paired."""
    cuts = np.cumsum(sizes)[:-1]

    def mean(x: Array, y: Array, w: Array, v: Array) -> Array:
        parts = zip(np.split(x, cuts), np.split(y, cuts), np.split(w, cuts, 1), np.split(v, cuts, 1), strict=True)
        return np.mean([distance(*part) for part in parts], axis=0)

    return mean


PROTOCOL = planned(
    name="ablation",
    summary="Concept Ablation's target, anchor and hard negatives: CLIP score and accuracy, KID; -n images a negative",
    paper="https://arxiv.org/abs/2303.13516",
    metrics=(
        *(f"{g}_{m}" for g in GROUPS for m in MEASURES if f"{g}_{m}" != "anchor_clip_accuracy"),
        "forget",
        "anchor",
        "hard_negative",
        "retain",
    ),
    prepare=prepare,
    n=50,
    config=Config,
    reads=("data",),
    published=Published("ddim", 50, GUIDANCE),
)
