"""Images to verdicts: one file per judge, and the registry of judges.

To add a judge, read `base.py` (the contract, with a complete example), one judge such as `pixels.py`, and the list
below. `shared` holds the code that several judges use, `wrappers` the judges made of other judges, `verdicts` the
functions that ask a judge and store its answers, and `training` makes a judge from labelled pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

from efface.errors import BadInput
from efface.judges.base import (
    Answer,
    HasTable,
    HasUndecidedBand,
    Judge,
    JudgeEntry,
    JudgeOptions,
    ReferenceJudge,
    Verdict,
)
from efface.judges.shared.questions import is_path
from efface.judges.verdicts import answer_of, judge_images, read_verdicts, score_images, write_verdicts
from efface.registry import Registry

JUDGES: Registry[JudgeEntry] = Registry(
    "judge",
    {
        name: f"efface.judges.{name}:ENTRY"
        for name in ("emoji", "clip", "imagenet", "style", "vlm", "nudenet", "nsfw", "q16", "sscd", "pixels")
    },
    "efface.judges",
)

__all__ = [
    "JUDGES",
    "Answer",
    "HasTable",
    "HasUndecidedBand",
    "Judge",
    "JudgeEntry",
    "JudgeOptions",
    "ReferenceJudge",
    "Verdict",
    "answer_of",
    "judge_images",
    "open_judge",
    "read_verdicts",
    "score_images",
    "write_verdicts",
]


def open_judge(
    name: str, alternatives: Sequence[str] = (), device: str = "cpu", trust_torchscript: bool = False
) -> Judge:
    """Open the judge `name`, `name:weights` with a file, folder or hub id, or `name:weights,option`.

    Args:
        name: A name in the registry, with weights and option (`clip:openai/clip-vit-base-patch32`).
        alternatives: Concepts that the run distinguishes, for judges that choose among several.
        device: The torch device to compute on.
        trust_torchscript: Whether a TorchScript file, which is a program, may be run.

    Raises:
        UnknownName: There is no such judge; the message lists the existing ones.
        BadInput: The judge takes no weights or no option, but the name has some.
    """
    kind, _, argument = name.partition(":")
    weights, _, option = (argument, "", "") if is_path(argument) else argument.partition(",")
    entry = JUDGES.get(kind)
    for sign, value, is_taken in ((":", weights, entry.takes_weights), (",", option, entry.takes_option)):
        if value and not is_taken:
            raise BadInput(f"The judge '{kind}' takes nothing after '{sign}'; leave out '{value}'.")
    return entry.open(JudgeOptions(weights, option, tuple(alternatives), device, trust_torchscript))
