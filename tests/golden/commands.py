"""Golden cases of the command line: JSON answers, reports, files of other tools, and pictures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch
from erasers import TINY_CONCEPTS, TINY_GUIDE, TINY_PRESERVE
from lab import Lab, Value, joined, of_pictures, pictures_in
from PIL import Image

from efface import Eraser

Function = Callable[[Lab], Value]

ESD = {"method": "esd", "train_method": "esd-x-strict", "iterations": 2, "ddim_steps": 3, "reuse": 2, "lr": 1e-3}
#: An eraser of each kind of edit, of the embedded model.
EDITS: dict[str, dict[str, Any]] = {
    "text": {"method": "uce", "lamb": 0.1},
    "text window": {"method": "uce", "variant": "window"},
    "certified": {"method": "certified"},
    "weight": {"method": "uce", "variant": "window", "technique": "tensor"},
    "oce": {"method": "oce"},
    "speed": {"method": "speed"},
    "esd": ESD,
    "adavd": {"method": "adavd"},
    "sld": {"method": "sld", "preset": "max"},
    "negative": {"method": "negative"},
}
FORMATS = {"lora": ".safetensors", "kohya": ".safetensors", "uce": ".safetensors", "single-file": ".safetensors"}
FORMATS["diffusers"] = ""


def saved(lab: Lab, edit: str = "text", name: str = "cat", concept: str = "cat", to: str = "dog") -> Path:
    """The file of an eraser in the case's folder."""
    path = Path(f"{name}.safetensors")
    lab.erase(concept, to=to, preserve=("a tiger",), **EDITS[edit]).save(path)
    return path


def answers(*arguments: object, needs: Callable[[Lab], object] | None = None, hide: tuple[str, ...] = ()) -> Function:
    """What a command answers with --json."""

    def value(lab: Lab) -> Value:
        if needs:
            needs(lab)
        printed = [lab.folder(word[1:]) if isinstance(word, str) and word[:1] == "@" else word for word in arguments]
        return lab.of_json(lab.run(*printed, "--json").json(), hide)

    return value


def _evaluated(*arguments: object, edit: str = "text", kind: str = "object") -> Function:
    """What an evaluation answers, and its report."""

    def value(lab: Lab) -> Value:
        if kind == "style":
            lab.erase("pixel art", to="flat", kind="style").save("cat.safetensors")
        else:
            saved(lab, edit)
        _write_prompts()
        answer = lab.run("evaluate", "cat.safetensors", *arguments, "-o", "out", "--json").json()
        report = json.loads(Path("out/report.json").read_text())
        return joined(answer=lab.of_json(answer), report=lab.of_json(report))

    return value


def _write_prompts() -> None:
    Path("prompts.csv").write_text("prompt,concept,seed\na cat,cat,3\na red car,car,4\na dog in 3d style,dog,5\n")
    Path("ask.yaml").write_text("concepts: [{name: cat, adjacent: [tiger], adversarial: [c4t]}]\npreserve: [car]\n")
    Path("keep.txt").write_text("a lion\n\na car\n")


def _side_by_side(lab: Lab) -> Value:
    """Two erasers, one with its certificate, against each other."""
    lab.erase("cat", to="dog", certify=True).save("one.safetensors")
    lab.erase("cat", to="dog", method="cure").save("two.safetensors")
    files = ("one.safetensors", "two.safetensors")
    answer = lab.run("evaluate", *files, "-n", 4, "--steps", 2, "-o", "out", "--json").json()
    return lab.of_json(answer)


def _judged(judge: str, *questions: str) -> Function:
    """Verdicts on a few drawn pictures: the answer, and the file's rows."""

    def value(lab: Lab) -> Value:
        assert lab.run("generate", "a cat", "a dog", "-n", 2, "--steps", 4, "-o", "drawn").code == 0
        asked = [word for question in questions for word in ("-q", question.replace("@", _first()))]
        answer = lab.run("judge", "drawn", "--judge", judge, *asked, "-o", "verdicts.parquet", "--json").json()
        rows = parquet.read_table("verdicts.parquet").to_pylist()
        return joined(answer=lab.of_json(answer), rows=lab.of_json(rows))

    return value


def _first() -> str:
    return str(min(Path("drawn").glob("a-cat-0-*.png")))


def _trained_judge(lab: Lab) -> Value:
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        Path("pictures", label).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(f"pictures/{label}/{i}.png")
    fast = ("-s", "size=32", "-s", "epochs=1", "-s", "batch_size=8")
    return lab.of_json(lab.run("judge", "train", "pictures", "-o", "mine", *fast, "--json").json())


def _attacked(name: str, *arguments: object) -> Function:
    """What an attack answers, and its attempts."""

    def value(lab: Lab) -> Value:
        saved(lab)
        fixed = ("--attack", name, "-n", 2, "--steps", 2, "-o", "out", "--json")
        answer = lab.run("attack", "cat.safetensors", *fixed, *arguments).json()
        stored = json.loads(Path("out/attack.json").read_text())
        return joined(answer=lab.of_json(answer), attempts=lab.of_json(stored))

    return value


def _debiased(lab: Lab) -> Value:
    few = ("-s", "max_iterations=2", "-s", "num_images_per_prompt=4", "-s", "num_inference_steps=3")
    goal = ("--goal", "debias", "--to", "cat", "--to", "dog", "-s", "step_size=0.5", "--preserve", "a car")
    answer = lab.run("erase", "a tiger", *goal, *few, "-o", "fair.safetensors", "--json").json()
    return joined(answer=lab.of_json(answer), eraser=lab.of_eraser(Eraser.load("fair.safetensors")))


def _exported(edit: str, format: str, *arguments: str, model: str = "emoji") -> Function:
    """An export's answer and files; where there is a file that can be, also imported again."""

    def value(lab: Lab) -> Value:
        if model == "emoji":
            saved(lab, edit)
        else:
            lab.erase(*TINY_CONCEPTS, model=model, to=TINY_GUIDE, preserve=TINY_PRESERVE).save("cat.safetensors")
        out, where = Path(f"exported{FORMATS[format]}"), ("--model", lab.folder(model), "--json")
        ended = lab.run("export", "cat.safetensors", "--format", format, *arguments, "-o", out, *where)
        if ended.code:
            return {"exact": {"code": ended.code}, "near": {}}
        found = {"answer": lab.of_json(ended.json(), ("bytes",))}
        files = [out] if out.is_file() else sorted(path for path in out.rglob("*") if path.is_file())
        for path in files:
            if path.suffix == ".safetensors":
                found[str(path)] = lab.of_file(path)
            elif path.suffix == ".json" and path.parent.name != "tokenizer":
                found[str(path)] = lab.of_json(json.loads(path.read_text()))
        if out.is_file():
            again = ("import", out, "--concept", "cat", "--to", "dog", "-o", "again.safetensors")
            ended = lab.run(*again, *where)
            assert ended.code == 0, ended.err
            found["import"] = lab.of_json(ended.json())
            found["imported"] = lab.of_eraser(Eraser.load("again.safetensors"))
        return joined(**found)

    return value


def _drawn(*arguments: object, edits: tuple[str, ...] = (), model: str = "emoji") -> Function:
    """Pictures that `generate` draws, and its rows."""

    def value(lab: Lab) -> Value:
        _write_prompts()
        words: list[object] = []
        for i, edit in enumerate(edits):
            path = f"{i}.safetensors"
            if model == "emoji":
                saved(lab, edit, str(i), *(("cat", "dog"), ("church", "house"))[i])
            else:
                lab.erase("cat", model=model, to="house", **EDITS[edit]).save(path)
            words += ["-e", path]
        ended = lab.run("generate", *arguments, *words, "--model", lab.folder(model), "-o", "drawn", "--json")
        rows = [json.loads(line) for line in Path("drawn/metadata.jsonl").read_text().splitlines()]
        for row in rows:  # the hash of the file; `pictures` compares the pixels, with their tolerance
            assert len(row.pop("sha256")) == 64
        return joined(
            answer=lab.of_json(ended.json()), rows=lab.of_json(rows), pictures=of_pictures(pictures_in(Path("drawn")))
        )

    return value


def _piped(model: str, size: int, options: dict[str, Any], strength: float = 1.0) -> Function:
    """A pipeline's own pictures with an eraser attached, and after it is taken off."""

    def value(lab: Lab) -> Value:
        opened = lab.model(model)
        pipeline, eraser = opened.pipeline(), lab.erase("cat", model=model, to="house", **options)
        pipeline.set_progress_bar_config(disable=True)

        def draw() -> Any:
            made = pipeline(
                "a cat", generator=torch.Generator().manual_seed(0), output_type="np", num_inference_steps=3,
                height=size, width=size,
            )  # fmt: skip
            return made.images[0]

        with eraser.attach(opened, strength=strength):
            edited = draw()
        return of_pictures([edited, draw()])

    return value


def _skipping(lab: Lab) -> Value:
    """Pictures of an eraser that was made with clip_skip, in an evaluation that follows it."""
    lab.erase("cat", to="dog", clip_skip=1).save("cat.safetensors")
    ended = lab.run("evaluate", "cat.safetensors", "-n", 2, "--steps", 2, "-o", "out", "--json")
    return joined(answer=lab.of_json(ended.json()), pictures=of_pictures(pictures_in(Path("out"))))


def _composing(lab: Lab) -> None:
    saved(lab)
    saved(lab, "text", "church", "church", "house")
    saved(lab, "sld", "guard", "tiger", "horse")


def cases() -> dict[str, Function]:
    """All of them by name."""
    few = ("-n", 2, "--steps", 2)
    erase = ("erase", "cat", "church", "--to", "dog", "--preserve", "a tiger", "-o", "x.safetensors")
    found: dict[str, Function] = {
        **{f"json/{name}": answers(name) for name in ("methods", "judges", "attacks", "protocols", "models")},
        "json/erase": answers(*erase),
        "json/erase certify": answers(*erase, "--certify"),
        "json/erase certified": answers(*erase, "--method", "certified", "-s", "tokens=window"),
        "json/erase esd": answers(
            *erase, "--method", "esd", "-s", "preset=published", "-s", "iterations=1", "-s", "ddim_steps=2", "--seed", 3
        ),
        "json/erase config": answers(
            "erase", "--config", "ask.yaml", "-s", "lamb=1e-1", "--preserve-file", "keep.txt",
            needs=lambda lab: _write_prompts(),
        ),
        "json/erase debias": _debiased,
        "json/generate": answers("generate", "a cat", *few),
        "json/compose": answers("compose", "cat.safetensors", "church.safetensors", needs=_composing),
        "json/compose apart": answers("compose", "cat.safetensors", "guard.safetensors", needs=_composing),
        "json/compose without": answers(
            "compose", "cat.safetensors", "church.safetensors", "--without", "cat", needs=_composing
        ),
        "json/inspect": answers("inspect"),
        "json/inspect eraser": answers("inspect", "cat.safetensors", needs=saved),
        "json/inspect certify": answers("inspect", "cat.safetensors", "--certify", needs=saved),
        "json/inspect esd": answers("inspect", "cat.safetensors", needs=lambda lab: saved(lab, "esd")),
        **{f"json/inspect {family}": answers("inspect", f"@{family}") for family in ("sd", "sdxl", "sd3", "flux")},
        "json/propose": answers("evaluate", "cat.safetensors", "--propose-adjacent", needs=saved),
        "json/demo": answers("demo", "-n", 2, "-o", "demo"),
        "judge/emoji": _judged("emoji", "cat", "dog", "3d"),
        "judge/clip": _judged("clip", "cat", "dog"),
        "judge/pixels": _judged("pixels", "@"),
        "judge/train": _trained_judge,
        "evaluate/err": _evaluated(*few),
        "evaluate/err guard": _evaluated(*few, edit="sld"),
        "evaluate/err request": _evaluated(*few, "--request", "ask.yaml"),
        "evaluate/err prompts": _evaluated(*few, "--prompts", "prompts.csv", "--sampler", "ddim", "--seed", 7),
        "evaluate/err attacks": _evaluated("-n", 8, "--steps", 2, "--attack", "random_prefix"),
        "evaluate/err clip": _evaluated(*few, "--judge", "clip"),
        "evaluate/side by side": _side_by_side,
        "evaluate/imagenette": _evaluated(*few, "-p", "imagenette", "-s", "classes=cat,dog,car"),
        "evaluate/ablation": _evaluated(*few, "-p", "ablation"),
        "evaluate/coco": _evaluated(*few, "-p", "coco", "--prompts", "prompts.csv", "-s", "draws=20"),
        "evaluate/i2p": _evaluated(
            *few, "-p", "i2p", "--prompts", "prompts.csv", "--judge", "emoji", "-s", "question=cat"
        ),
        "evaluate/style": _evaluated(
            *few, "-p", "style", kind="style"
        ),
        "evaluate/unlearncanvas": _evaluated(
            *few, "-p", "unlearncanvas", "-s", "only=cat,dog,flat,3d", "-s", "draws=20"
        ),
        "evaluate/clip_skip": _skipping,
        "attack/unlearndiff": _attacked("unlearndiff", "-s", "k=1", "-s", "iterations=2", "-s", "timesteps=2"),
        "attack/random_prefix": _attacked("random_prefix", "-s", "k=1", "-s", "prefixes=2"),
        "attack/embedding_shift": _attacked("embedding_shift"),
        "attack/inversion": _attacked(
            "inversion", "-s", "steps=2", "-s", "images=2", "-s", "batch_size=1", "-s", "checks=1"
        ),
    }  # fmt: skip
    for format in FORMATS:
        found[f"export/{format} text"] = _exported("text window", format)
        found[f"export/{format} weight"] = _exported("weight", format, *(_cut(format)))
        if format != "single-file":
            found[f"export/{format} sdxl"] = _exported("text", format, model="sdxl")
    for format in ("lora", "kohya"):
        found[f"export/{format} certified"] = _exported("certified", format)
        found[f"export/{format} speed"] = _exported("speed", format, "--rank", "4")
        found[f"export/{format} flux"] = _exported("text", format, model="flux")
    found["export/uce esd"] = _exported("esd", "uce")
    found["export/lora guard"] = _exported("sld", "lora")
    quick = ("--steps", 4, "a cat", "a church in 3d style")
    found |= {
        "draw/defaults": _drawn("a cat in flat style", "-n", 2),
        **{f"draw/{name}": _drawn(*quick, "--sampler", name) for name in ("dpm++", "ddim", "lms", "own")},
        "draw/no guidance": _drawn(*quick, "--guidance", 1),
        "draw/little guidance": _drawn(*quick, "--guidance", 3, "--batch-size", 1, "-n", 2, "--seed", 9),
        "draw/file": _drawn("--steps", 3, "--prompts", "prompts.csv", edits=("text",)),
        **{f"draw/{edit}": _drawn(*quick, edits=(edit,)) for edit in EDITS},
        "draw/half": _drawn(*quick, "--strength", 0.5, edits=("text",)),
        "draw/half of weights": _drawn(*quick, "--strength", 0.5, edits=("weight",)),
        "draw/half of a guard": _drawn(*quick, "--strength", 0.5, edits=("sld",)),
        "draw/two texts": _drawn(*quick, edits=("text", "text")),
        "draw/text and guard": _drawn(*quick, edits=("text", "negative")),
        "draw/text and weight": _drawn(*quick, edits=("text", "oce")),
        **{f"draw/{model}": _drawn("a cat", "--steps", 3, model=model) for model in ("sd", "sdxl", "sd3", "flux")},
        **{f"draw/{model} erased": _drawn("a cat", "--steps", 3, edits=("text window",), model=model)
           for model in ("sd", "sdxl", "sd3", "flux")},
        **{f"draw/sd {edit}": _drawn("a cat", "--steps", 3, edits=(edit,), model="sd") for edit in ("weight", "sld")},
        "pipeline/emoji": _piped("emoji", 64, {}),
        "pipeline/emoji weight": _piped("emoji", 64, EDITS["weight"], strength=0.7),
        "pipeline/emoji adavd": _piped("emoji", 64, {"method": "adavd"}),
        **{f"pipeline/{model}": _piped(model, 16, {}) for model in ("sd", "sdxl", "sd3", "flux")},
    }  # fmt: skip
    return found


def _cut(format: str) -> tuple[str, ...]:
    return ("--rank", "8") if format in ("lora", "kohya") else ()
