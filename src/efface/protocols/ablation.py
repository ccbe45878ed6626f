"""The `ablation` protocol: the ablated concept, its anchor and its hard negatives, as Concept Ablation measures them.

Kumari et al., "Ablating Concepts in Text-to-Image Diffusion Models", arXiv 2303.13516;
https://github.com/nupurkmr9/concept-ablation (compvis/evaluate.py, assets/eval.json). Of each of the three groups

    GROUP_clip_score     2.5 max(cos, 0) of its images with "A photo depicts NAME" (styles: "NAME style"), ViT-B/32
    GROUP_clip_accuracy  share of its images closer to its own name than to the anchor's; not of the anchor itself
    GROUP_fid, _kid      FID and KID to the unedited model's images of the same prompts and seeds

with GROUP one of target, anchor and hard_negative; of several hard negatives, the mean distance. Images that the
eraser did not change have an FID of 0, and a KID below zero: its estimator assumes that the two sets are independent.
FID is biased upwards for so few images: compare it only at equal numbers. The judge adds in how many images the target
is absent (`forget`), and the anchor and the hard negatives are found (`anchor`, `hard_negative`; together `retain`).

`--data FOLDER` is the reference's assets, with eval.json and eval_prompts; objects' prompts are the anchor's with
another name in them. Without eval_prompts, plain templates are used. Without `--data`, anchor and hard negatives are
the concept's guide and neighbours, from the request or the closed world, in plain templates. Hard negatives that are
erased too are left out. 4 n images of target and anchor, n of each hard negative; the paper has n = 50, guidance 6 and
50 steps of DDIM at eta 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from efface.errors import NoInterval
from efface.generation import Job
from efface.judges import Judge
from efface.judges.wrappers import WithPeers
from efface.metrics.bootstrap import Array, Statistic
from efface.metrics.clip_score import ABLATION, score_table
from efface.metrics.distance import measure_distance
from efface.metrics.features import Features
from efface.metrics.fid import BIASED, ENOUGH, fid_statistic
from efface.metrics.kid import kid_statistic
from efface.protocols.ablation_sets import AblationSets, PromptSet, sets_for
from efface.protocols.base import FORGET, RETAIN, EvaluationInput, Metric, PaperSampling, Protocol
from efface.protocols.image_scores import (
    ImageScores,
    ScoreOfJob,
    Vectors,
    as_set,
    clip_for,
    common_images,
    feature_scores,
    mean_score,
    share_of_images,
)
from efface.protocols.plan import BASE, BeforeAfter, Count, Plan, Prepared, Probe, ScoredImages, right_answers
from efface.protocols.probes.requests import take_turns
from efface.settings import Settings

GUIDANCE, TIMES = 6.0, 4
GROUPS = ("target", "anchor", "hard_negative")


@dataclass(frozen=True)
class _Distance:
    """A distance between two sets of images.

    Attributes:
        statistic: The distance of weighted sets.
        draws: Number of resamples.
        floor: The lowest possible value.
        note: A remark for sets of fewer than 10,000 images.
    """

    statistic: Statistic
    draws: int
    floor: float = -math.inf
    note: str = ""


DISTANCES = {"fid": _Distance(fid_statistic, 200, 0.0, f"; {BIASED}"), "kid": _Distance(kid_statistic(), 500)}


class AblationConfig(Settings):
    """The settings.

    Attributes:
        clip: The CLIP that scores: a folder or hub id; empty for ViT-B/32, and in a closed world for its own.
        extractor: The extractor of the features of FID and KID; empty for one that needs no download.
        guidance: The guidance scale of all images; by default 6, and in a closed world the model's own.
    """

    clip: str = ""
    extractor: str = ""
    guidance: float | None = None


#: By group, the probes of each concept in it: one concept in target and anchor, several in hard_negative.
Groups = Mapping[str, Sequence[tuple[Probe, ...]]]


def prepare(evaluation: EvaluationInput) -> Prepared:
    """The images of the sets of every concept."""
    config = AblationConfig.model_validate(evaluation.options)
    guidance = GUIDANCE if config.guidance is None and evaluation.world is None else config.guidance
    sets = {
        name: [sets_for(evaluation, concept, request.names) for concept in request.concepts]
        for name, request in evaluation.requests.items()
    }
    groups = {name: [_groups(one, evaluation, guidance) for one in several] for name, several in sets.items()}
    rates = {
        "forget": right_answers("forget"),
        "anchor": right_answers("anchor"),
        "hard_negative": right_answers("adjacent"),
        "retain": right_answers("anchor", "adjacent"),
    }
    plans = {name: _plan(several, evaluation.judge, rates) for name, several in groups.items()}
    clip = clip_for(evaluation, config.clip)
    text_of = {name: _texts(several) for name, several in sets.items()}
    texts = list(dict.fromkeys(text for texts in text_of.values() for text in texts.values()))
    scores = ImageScores(ABLATION.version(clip), lambda images: score_table(clip, images, texts, ABLATION))
    judge = WithPeers(evaluation.judge, (concept for names in text_of.values() for concept in names))
    measured = _GroupScores(groups, text_of, texts, scores, feature_scores(evaluation, config.extractor))
    return Prepared(plans, judge, measured)


def _plan(several: Sequence[Groups], judge: Judge, rates: Mapping[str, Count]) -> Plan:
    """Every image; questions about the target, and about other concepts that the judge knows."""
    probes = [probe for groups in several for parts in groups.values() for part in parts for probe in part]
    asked = tuple(probe for probe in probes if probe.metric == "forget" or judge.knows(probe.concept))
    return Plan(asked, rates, tuple(probe.job for probe in probes))


def _groups(sets: AblationSets, evaluation: EvaluationInput, guidance: float | None) -> Groups:
    def probes(metric: str, one: PromptSet, n: int, guide: str | None = None) -> tuple[Probe, ...]:
        cells = [(one.name, prompt) for prompt in one.prompts]
        turns = take_turns(metric, cells, n, evaluation.seed, guide)
        return tuple(replace(probe, job=replace(probe.job, guidance=guidance)) for probe in turns)

    n = evaluation.n
    return {
        "target": [probes("forget", sets.target, TIMES * n, sets.anchor.name)],
        "anchor": [probes("anchor", sets.anchor, TIMES * n)],
        "hard_negative": [probes("adjacent", one, n) for one in sets.hard_negatives],
    }


def _texts(several: Sequence[AblationSets]) -> dict[str, str]:
    """The text of each name for CLIP."""
    return {
        one.name: f"{one.name} style" if sets.is_style else one.name
        for sets in several
        for one in (sets.target, sets.anchor, *sets.hard_negatives)
    }


class _GroupScores:
    """The three numbers of each group.

    Args:
        groups: By eraser, those of each of its concepts.
        text_of: By eraser, the text of each name for CLIP.
        texts: The texts of the columns of `scores`.
        scores: CLIP scores with all texts.
        features: Features for FID and KID.
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[Groups]],
        text_of: Mapping[str, Mapping[str, str]],
        texts: Sequence[str],
        scores: ImageScores,
        features: ImageScores,
    ) -> None:
        self.groups = {**groups, BASE: [one for several in groups.values() for one in several]}
        self.text_of = {**text_of, BASE: {name: text for names in text_of.values() for name, text in names.items()}}
        self.column = {text: i for i, text in enumerate(texts)}
        self.scores, self.features = scores, features

    def __call__(self, name: str, edited: ScoredImages, base: ScoredImages) -> tuple[dict[str, BeforeAfter], set[Job]]:
        numbers: dict[str, BeforeAfter | None] = {}
        unread: set[Job] = set()
        for group in GROUPS:
            # Each image with the text of its own name and the anchor's.
            texts = {
                probe.job: (self._text(name, probe), self._text(name, one["anchor"][0][0]))
                for one in self.groups[name]
                for part in one[group]
                for probe in part
            }
            after = self.scores(edited, texts)
            unread |= texts.keys() - after.keys()
            before = {} if name == BASE else self.scores(base, texts)
            scores, wins = ([of(table, texts, self.column) for table in (after, before)] for of in (_own_score, _wins))
            numbers[f"{group}_clip_score"] = mean_score(self.scores.version, *scores)
            if group != "anchor":
                numbers[f"{group}_clip_accuracy"] = share_of_images(self.scores.version, *wins)
            if name != BASE:
                parts = [[probe.job for probe in part] for one in self.groups[name] for part in one[group]]
                pairs = [common_images(self.features(edited, p), self.features(base, p)) for p in parts]
                numbers |= {f"{group}_{distance}": self._distance(distance, pairs) for distance in DISTANCES}
        return {metric: measured for metric, measured in numbers.items() if measured}, unread

    def _text(self, name: str, probe: Probe) -> str:
        return self.text_of[name][probe.concept]

    def _distance(self, name: str, parts: Sequence[tuple[Vectors, Vectors]]) -> BeforeAfter | None:
        """The mean distance of several sets to the unedited model's."""
        distance, version = DISTANCES[name], self.features.version
        pairs = [(as_set(x, version), as_set(y, version)) for x, y in parts if len(x) > 1]
        if not pairs:
            return None
        x, y = (joined([pair[i] for pair in pairs]) for i in (0, 1))
        note = "the unedited model's" + (f", mean over {len(pairs)} sets" if len(pairs) > 1 else "")
        note += distance.note if len(x) < ENOUGH else ""
        statistic = mean_of(distance.statistic, [len(pair[0]) for pair in pairs])
        with suppress(NoInterval):
            return BeforeAfter(measure_distance(statistic, x, y, distance.draws, note, distance.floor))
        return None


def _own_score(table: Vectors, texts: Mapping[Job, tuple[str, str]], column: Mapping[str, int]) -> ScoreOfJob:
    """The score of each image with its own name."""
    return {job: float(row[column[texts[job][0]]]) for job, row in table.items()}


def _wins(table: Vectors, texts: Mapping[Job, tuple[str, str]], column: Mapping[str, int]) -> ScoreOfJob:
    """1 for each image that is closer to its own name than to the anchor's."""
    return {job: float(row[column[texts[job][0]]] > row[column[texts[job][1]]]) for job, row in table.items()}


def joined(sets: Sequence[Features]) -> Features:
    """Several sets, features (n, d), as one."""
    prompts = tuple(prompt for one in sets for prompt in one.prompts or ())
    return Features(np.concatenate([one.values for one in sets]), sets[0].extractor, prompts)


def mean_of(distance: Statistic, sizes: Sequence[int]) -> Statistic:
    """The mean distance over sets that follow one another, paired.

    Args:
        distance: The distance.
        sizes: The number of images of each set.
    """
    cuts = np.cumsum(sizes)[:-1]

    def mean(x: Array, y: Array, w: Array, v: Array) -> Array:
        parts = zip(np.split(x, cuts), np.split(y, cuts), np.split(w, cuts, 1), np.split(v, cuts, 1), strict=True)
        return np.mean([distance(*part) for part in parts], axis=0)

    return mean


def _metrics() -> tuple[Metric, ...]:
    names = {"target": "the ablated concept", "anchor": "the anchor", "hard_negative": "hard negatives"}
    metrics: list[Metric] = []
    for group, name in names.items():
        is_target = group == "target"
        better = "lower" if is_target else "higher"
        metrics.append(Metric(f"{group}_clip_score", f"how well images of {name} match its name", "2.5 cos", better))
        if group != "anchor":
            meaning = f"images of {name} that match its name better than the anchor's"
            metrics.append(Metric(f"{group}_clip_accuracy", meaning, "share", better))
        meaning, better = f"distance of images of {name} to the unedited model's", "higher" if is_target else "lower"
        metrics += [Metric(f"{group}_{distance}", meaning, "", better) for distance in DISTANCES]
    return (
        *metrics,
        FORGET,
        Metric("anchor", "what it was erased towards is found where it is prompted"),
        Metric("hard_negative", "what is easily confused with it is found where it is prompted"),
        RETAIN,
    )


ENTRY = Protocol(
    name="ablation",
    summary="Concept Ablation's target, anchor, hard negatives: CLIP score, accuracy, FID, KID; -n images a negative",
    paper="https://arxiv.org/abs/2303.13516",
    metrics=_metrics(),
    prepare=prepare,
    n=50,
    config=AblationConfig,
    reads=("data",),
    published=PaperSampling("ddim", 50, GUIDANCE, eta=1.0),
)
