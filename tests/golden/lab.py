"""Where golden cases run, and what they leave: exact hashes, and fingerprints that another processor repeats.

A value has two halves:

    exact  SHA-256 of everything, with times, versions and this machine's paths masked
    near   numbers, and norms and random projections of tensors, to compare within a tolerance

Only the file formats, the command line and the public names of `efface` are used.
"""

import hashlib
import io
import json
import math
import os
import re
import runpy
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from tiny import write_tiny
from torch import Tensor

import efface
from efface import Eraser

#: What runs the command line: `python -m MODULE`.
MODULE = "efface.cli"
#: Names of JSON values that are of the moment or of what is installed.
#: Keys that were added after the hashes were recorded, and have tests of their own (tests/eraser/test_recommended.py).
ADDED = {"guide_from", "settings_from"}
MASKED = {"versions", "seconds", "seconds_per_prompt", "sha256", "file_bytes", "libraries", "_name_or_path"}
PROJECTIONS = 3
#: An eraser of more edits than this has one fingerprint for all of them together.
MANY = 16

Value = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The answer of a command that went well."""
        assert self.code == 0, self.err
        return json.loads(self.out)


@dataclass
class Lab:
    """A folder to work in, and the erasers that cases share.

    Attributes:
        root: an empty folder.
        texts: a folder for what was hashed, as text, one file a case; None keeps none.
    """

    root: Path
    texts: Path | None = None
    _erasers: dict[str, Path] = field(default_factory=dict[str, Path])
    _case: str = ""

    def run_case(self, name: str, function: Callable[["Lab"], Value]) -> Value:
        """A case's value; it runs in a folder and with a cache of its own, on one thread."""
        here, threads, self._case = Path.cwd(), torch.get_num_threads(), name
        place = self.root / "cases" / re.sub(r"\W+", "-", name)
        place.mkdir(parents=True)
        stored = {key: os.environ.get(key) for key in ("EFFACE_CACHE", "EFFACE_DEBUG")}
        os.environ["EFFACE_CACHE"] = str(place / "cache")
        os.environ.pop("EFFACE_DEBUG", None)
        os.chdir(place)
        torch.set_num_threads(1)
        torch.manual_seed(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return function(self)
        finally:
            os.chdir(here)
            torch.set_num_threads(threads)
            for key, value in stored.items():
                os.environ.pop(key, None)
                if value is not None:
                    os.environ[key] = value

    def folder(self, family: str) -> str:
        """What `--model` takes: "emoji", or the folder of a tiny model."""
        if family == "emoji":
            return family
        if family != "sd":
            self.folder("sd")
        folder = self.root / "models" / family
        if not folder.exists():
            folder.parent.mkdir(exist_ok=True)
            write_tiny(family, folder)
        return str(folder)

    def model(self, family: str = "emoji") -> Any:
        """A model, opened anew: the order of its weights depends on whether they were loaded before."""
        return efface.open_model(self.folder(family))

    def erase(self, *concepts: str, model: str = "emoji", **options: Any) -> Eraser:
        """An eraser by the published defaults, solved for once; it comes from its file every time."""
        options.setdefault("preset", "published")
        key = json.dumps([concepts, model, options], sort_keys=True)
        if key not in self._erasers:
            path = self.root / "erasers" / f"{len(self._erasers)}.safetensors"
            path.parent.mkdir(exist_ok=True)
            cache, os.environ["EFFACE_CACHE"] = os.environ["EFFACE_CACHE"], str(path.with_suffix(".cache"))
            torch.manual_seed(0)
            try:
                # Whether an eraser is certified unasked depends on the cache, which other cases must not fill.
                efface.erase(self.model(model), list(concepts), **options).save(path)
            finally:
                os.environ["EFFACE_CACHE"] = cache
            self._erasers[key] = path
        return Eraser.load(self._erasers[key])

    def run(self, *arguments: object) -> Outcome:
        """One command, in this process."""
        out, err, before = io.StringIO(), io.StringIO(), sys.argv
        sys.argv = ["efface", *map(str, arguments)]
        code: object = 0
        try:
            with redirect_stdout(out), redirect_stderr(err):
                runpy.run_module(MODULE, run_name="__main__")
        except SystemExit as ended:
            code = ended.code or 0
        finally:
            sys.argv = before
        assert isinstance(code, int)
        return Outcome(code, out.getvalue(), err.getvalue())

    def masked(self, content: Any, also: Sequence[str] = ()) -> Any:
        """JSON content without what differs from run to run and from machine to machine."""
        if isinstance(content, Mapping):
            hidden = MASKED.union(also)
            content = {key: value for key, value in content.items() if key not in ADDED}
            return {key: "*" if key in hidden else self.masked(value, also) for key, value in content.items()}
        if isinstance(content, (list, tuple)):
            return [self.masked(value, also) for value in content]
        return content.replace(str(self.root), "ROOT") if isinstance(content, str) else content

    def of_json(self, content: Any, also: Sequence[str] = ()) -> Value:
        """The value of JSON content: near are its numbers, and all else with hashes of weights and images masked."""
        text = json.dumps(self.masked(content, also), sort_keys=True, indent=1, ensure_ascii=False)
        if self.texts:
            with (self.texts / f"{re.sub(r'[^-+.=,A-Za-z0-9]+', '_', self._case)}.txt").open("a") as file:
                file.write(text + "\n")
        numbers: list[float] = []

        def bare(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: bare(one) for key, one in sorted(value.items())}
            if isinstance(value, list):
                return [bare(one) for one in value]
            if isinstance(value, float):
                numbers.append(six(value))
                return "number"
            return re.sub(r"\b[0-9a-f]{10,64}\b", "hash", value) if isinstance(value, str) else value

        skeleton = sha(json.dumps(bare(json.loads(text))))
        return {"exact": sha(text), "near": {"text": skeleton, "numbers": numbers}}

    def of_eraser(self, eraser: Eraser, also: Sequence[str] = ()) -> Value:
        """The value of an eraser: of its file's header and tensors, its hash and its base's key."""
        path = Path("value.safetensors")
        eraser.save(path, force=True)
        assert Eraser.load(path).hash == eraser.hash
        tensors, metadata = read(path)
        header = self.of_json(json.loads(metadata["efface"]), also)
        exact = {"hash": eraser.hash, "base": eraser.base.key, "file": sha_of(tensors), "header": header["exact"]}
        edits = {name: tensor for name, tensor in tensors.items() if re.search(r"\bedit\.\d+\.", name)}
        return {"exact": exact, "near": {"header": header["near"], "edits": fingerprints(edits)}}

    def of_file(self, path: Path) -> Value:
        """The value of a safetensors file of whatever origin."""
        tensors, metadata = read(path)
        reported = self.of_json({key: _parsed(value) for key, value in metadata.items()})
        return {
            "exact": {"tensors": sha_of(tensors), "metadata": reported["exact"]},
            "near": {"metadata": reported["near"], "tensors": fingerprints(tensors)},
        }


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def sha(text: str | bytes) -> str:
    """SHA-256, cut to what keeps accidents away and the file short."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:24]


def sha_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()[:24]


def six(number: float) -> float:
    """Six significant digits."""
    return float(f"{number:.6g}") if math.isfinite(number) else number


def fingerprint(values: Tensor) -> list[float]:
    """The norm, and a few fixed random projections."""
    flat = values.detach().double().reshape(-1)
    found = [float(flat.norm())]
    for seed in range(PROJECTIONS):
        found.append(float(flat @ torch.randn(len(flat), generator=torch.Generator().manual_seed(seed)).double()))
    return [six(number) for number in found]


def fingerprints(tensors: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Of each change or tensor; of many together. Factors are multiplied: their signs and scales are arbitrary."""
    whole: dict[str, Tensor] = {}
    for name in sorted(tensors):
        tensor = tensors[name].double()
        for one, other in (("left", "right"), ("up", "down"), ("lora_B", "lora_A")):
            partner = re.sub(rf"(^|[._]){one}(?=\.|$)", rf"\g<1>{other}", name)
            if partner != name and partner in tensors:
                second = tensors[partner].double()
                tensor = tensor @ second.T if one == "left" else tensor.flatten(1) @ second.flatten(1)
                break
            if re.search(rf"(^|[._]){other}(?=\.|$)", name):
                tensor = torch.empty(0)
        if tensor.numel():
            whole[name] = tensor
    if len(whole) > MANY:
        return {f"{len(whole)} together": fingerprint(torch.cat([one.reshape(-1) for one in whole.values()]))}
    return {name: fingerprint(tensor) for name, tensor in whole.items()}


def of_pictures(pictures: Sequence[np.ndarray[Any, Any]]) -> Value:
    """The value of pictures, (height, width, 3) each: bytes, or floats from 0 to 1."""
    hashes = [sha(f"{picture.shape} {picture.dtype}".encode() + picture.tobytes()) for picture in pictures]
    scale = [picture if picture.dtype == np.uint8 else picture * 255.0 for picture in pictures]
    return {
        "exact": hashes,
        "near": {"pictures": [fingerprint(torch.from_numpy(one.astype(np.float64))) for one in scale]},
    }


def pictures_in(folder: Path) -> list[np.ndarray[Any, Any]]:
    """The decoded pictures of a folder, in order of name."""
    return [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.rglob("*.png"))]


def joined(**values: Value) -> Value:
    """Several values as one."""
    return {half: {name: value[half] for name, value in values.items()} for half in ("exact", "near")}
