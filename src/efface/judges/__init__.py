"""Images to verdicts: one file a judge."""

from collections.abc import Sequence

from efface.errors import BadInput
from efface.judges.base import Comparing, Hesitant, Judge, JudgeEntry, KeepsResults, Opening, Seen
from efface.judges.questions import is_path
from efface.judges.verdicts import (
    Answer,
    Verdict,
    answer_of,
    judge_images,
    read_verdicts,
    score_images,
    write_verdicts,
)
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
    "Comparing",
    "Hesitant",
    "Judge",
    "JudgeEntry",
    "KeepsResults",
    "Opening",
    "Seen",
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
    """The judge called `name`, `name:weights` with a file, folder or hub id, or `name:weights,option`.

    Args:
        name: Of the registry (`clip:openai/clip-vit-base-patch32`).
        alternatives: Concepts that the run tells apart, for judges that choose among several.
        device: The torch device to compute on.
        trust_torchscript: Whether a TorchScript file, which is a program, may be run.

    Raises:
        UnknownName: There is no such judge; the message lists what there is.
        BadInput: It takes no weights or no option, but is given some.
    """
    kind, _, argument = name.partition(":")
    weights, _, option = (argument, "", "") if is_path(argument) else argument.partition(",")
    entry = JUDGES.get(kind)
    for sign, given, is_taken in ((":", weights, entry.takes_weights), (",", option, entry.takes_option)):
        if given and not is_taken:
            raise BadInput(f"The judge '{kind}' takes nothing behind '{sign}'; leave '{given}' away.")
    return entry.open(Opening(weights, option, tuple(alternatives), device, trust_torchscript))
