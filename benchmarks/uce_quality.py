"""Does `uce` make the embedded model forget, and what does that cost the rest?

    python benchmarks/uce_quality.py            ten objects and three styles, one at a time, three settings each
    python benchmarks/uce_quality.py --quick    one of each and few images, in a temporary folder; writes no result

Each concept is erased alone, towards the guide that the catalogue names, with both published defaults, and with the
stronger one's window while all other names are preserved. The `err` protocol with its judge says what came of it, on
prompts over all styles, objects and templates. Writes results/uce_quality.md and .json.
"""

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import efface
from efface.judges import Judge, open_judge
from efface.request.record import Kind
from quality import OBJECTS, Found, Setting, details, keep, overview, run_all

STYLES = ("line art", "pixel art", "blueprint")
IMAGES = 100
SETTINGS = {
    "published (token)": Setting(),
    "published (window)": Setting(options={"variant": "window"}),
    "window, others preserved": Setting(options={"variant": "window", "lamb": 0.1}, preserve=True),
}


def page(found: Found, judge: Judge) -> str:
    return f"""# UCE on the embedded model

{len(found)} concepts, each erased alone; judge {judge.name} {judge.version}. Made by
`python benchmarks/uce_quality.py`, whose first lines say what is measured. Means over concepts, with 95% intervals from
a bootstrap over concepts; below, of each concept, intervals clustered by prompt. The last columns say where the images
prompted for the concept went, and how the judge did on the unedited model's images. The window also edits the end and
padding tokens, which differ little between prompts.

{overview(found)}

{details(found, SETTINGS)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two concepts, few images; writes no result")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--judge", default="emoji")
    parser.add_argument("--work", type=Path, default=Path("uce_quality"), help="images and finished concepts")
    arguments = parser.parse_args()
    model, judge = efface.open_model(arguments.model), open_judge(arguments.judge)
    kinds: dict[str, Kind] = {**dict.fromkeys(OBJECTS, "object"), **dict.fromkeys(STYLES, "style")}
    concepts = list(kinds.items())
    if arguments.quick:
        concepts = [concepts[0], concepts[-1]]
        arguments.work = Path(tempfile.mkdtemp())
    found = run_all(model, judge, concepts, SETTINGS, 8 if arguments.quick else IMAGES, arguments.work)
    text = page(found, judge)
    print("\n" + text)
    if not arguments.quick:
        keep(found, text, "uce_quality")


if __name__ == "__main__":
    main()
