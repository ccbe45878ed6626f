"""Images to verdicts: one file a judge."""

from collections.abc import Sequence

from efface.judges.base import Judge, JudgeEntry, Seen
from efface.judges.verdicts import Answer, Verdict, judge_images, read_verdicts, score_images, write_verdicts
from efface.registry import Registry

JUDGES: Registry[JudgeEntry] = Registry(
    "judge", {"emoji": "efface.judges.emoji:ENTRY", "clip": "efface.judges.clip:ENTRY"}, "efface.judges"
)

__all__ = [
    "JUDGES",
    "Answer",
    "Judge",
    "JudgeEntry",
    "Seen",
    "Verdict",
    "judge_images",
    "open_judge",
    "read_verdicts",
    "score_images",
    "write_verdicts",
]


def open_judge(name: str, alternatives: Sequence[str] = ()) -> Judge:
    """The judge called `name`, or `name:weights` with a folder or hub id (`clip:openai/clip-vit-base-patch32`).

    Args:
        name: Of the registry.
        alternatives: Concepts that the run tells apart, for judges that choose among several.

    Raises:
        UnknownName: There is no such judge; the message lists what there is.
    """
    kind, _, weights = name.partition(":")
    return JUDGES.get(kind).open(weights, alternatives)
