"""Trains the T5 text encoder of emoji-flow with the targets of `zoo/emoji/train_text.py`.

    python train_t5.py RUN --steps 1000

As there, the encoder learns the names and keywords of all emoji by three losses (meaning, object, style), each read
from the end token, from the last padding token and from the last token of the phrase. FLUX reads the output without an
attention mask, so padding is part of the input here too. The attention is bidirectional: every token can carry the
object, as in T5. `results/tokens.json` has the share of captions whose object a linear probe reads from each token,
with words that the probe was not fitted on, beside an encoder of random weights. Resumes from RUN/t5.pt.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from captions import OBJECT_TEMPLATES, STYLED_TEMPLATES, pick, words
from catalogue import STYLES, THINGS
from common import Checkpoint, Log, learning_rate
from make_tokenizer import MAX_TOKENS
from muon import Muon
from train_text import Captions, Heads, Item, meanings, read_losses

WIDTH, BATCH, MUON_LR, ADAM_LR = 256, 128, 0.01, 2e-3
RESULTS = Path(__file__).parent / "results"


def config(tokens: int) -> T5Config:
    """The encoder: T5 1.1 with 4 layers of width 256."""
    return T5Config(
        vocab_size=tokens,
        d_model=WIDTH,
        d_kv=64,
        d_ff=512,
        num_layers=4,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
    )


class Pieces(Captions):
    """Caption items in the pieces of T5: no start token, and the phrase's last piece by its place in the text."""

    def fill(self, template: str, **parts: str) -> tuple[list[int], dict[str, int]]:
        text, ends = template, dict[str, int]()
        for key, words_of_part in parts.items():
            place = text.find("{" + key + "}")
            if place < 0:
                continue
            text = text[:place] + words_of_part + text[place + 3 :]
            grown = len(words_of_part) - 3
            ends = {k: end + grown if end > place else end for k, end in ends.items()}
            ends[key] = place + len(words_of_part)
        found = self.tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_offsets_mapping=True)
        starts = [start for start, end in found.offset_mapping if end > start]
        return found.input_ids, {key: sum(start < end for start in starts) - 1 for key, end in ends.items()}


def batch_of(items: list[Item], length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Padded ids (n, length), the place of the end token (n,), and the labels (n, 5)."""
    ids = torch.tensor([i[0][:length] + [0] * (length - len(i[0])) for i in items])
    end = torch.tensor([min(len(i[0]), length) - 1 for i in items])
    return ids, end, torch.tensor([i[1:] for i in items])


def losses(model: T5EncoderModel, heads: Heads, items: list[Item], targets: Tensor, length: int) -> dict[str, Any]:
    """The losses of `train_text`, of the states of T5."""
    ids, end, facts = batch_of(items, length)
    with torch.autocast("cpu", torch.bfloat16):
        h_nld = model(ids).last_hidden_state
    return read_losses(h_nld.float(), heads, end, facts, targets)


@torch.no_grad()
def states(model: T5EncoderModel, tokenizer: T5Tokenizer, texts: list[str]) -> Tensor:
    """Output of the encoder for padded texts, (n, 24, 256)."""
    parts = []
    for i in range(0, len(texts), 256):
        read = tokenizer(
            texts[i : i + 256], padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        parts.append(model(read.input_ids).last_hidden_state)
    return torch.cat(parts)


def probes(model: T5EncoderModel, tokenizer: T5Tokenizer, n: int = 6000) -> dict[str, float]:
    """The share of captions whose object a linear probe reads from a token, by the token's role.

    One ridge classifier for each role is fitted on captions with all words for an object but its last, and measured on
    captions with the last word, so that a probe which remembers words fails.
    """
    rng = np.random.default_rng(21)
    captions = Pieces(tokenizer)  # type: ignore[arg-type]
    texts: list[str] = []
    labels: list[int] = []
    places: list[dict[str, int]] = []
    new: list[bool] = []
    for i in range(n):
        at = int(rng.integers(0, len(THINGS)))
        template, look = pick(rng, (*OBJECT_TEMPLATES, *STYLED_TEMPLATES)), pick(rng, tuple(STYLES))
        known = words(THINGS[at])
        word = known[-1] if i % 4 == 0 else pick(rng, known[:-1])
        ids, ends = captions.fill(template, o=word, s=look)
        first, last, end = ends["o"] + 1 - len(tokenizer(word).input_ids[:-1]), ends["o"], len(ids) - 1
        spots = {"first token of the prompt": 0, "token before the name": first - 1, "first token of the name": first}
        spots |= {"last token of the name": last, "token after the name": last + 1, "end token": end}
        spots |= {"first padding token": end + 1, "last padding token": MAX_TOKENS - 1}
        texts.append(template.replace("{o}", word).replace("{s}", look))
        labels.append(at)
        places.append(spots)
        new.append(i % 4 == 0)
    h_nld, y_n, new_n = states(model, tokenizer, texts), torch.tensor(labels), torch.tensor(new)
    out: dict[str, float] = {}
    for role in places[0]:
        # A caption that begins with the name has no token before it.
        use = torch.tensor([i for i, spots in enumerate(places) if 0 <= spots[role] < MAX_TOKENS])
        x_nd = h_nld[use, torch.tensor([places[int(i)][role] for i in use])].double()
        out[role] = round(_ridge_accuracy(x_nd, y_n[use], new_n[use]), 3)
    mean_nd = torch.stack([h[: spots["end token"]].mean(0) for h, spots in zip(h_nld, places, strict=True)]).double()
    out["mean of the prompt's tokens"] = round(_ridge_accuracy(mean_nd, y_n, new_n), 3)
    return out


def _ridge_accuracy(x_nd: Tensor, y_n: Tensor, new_n: Tensor) -> float:
    """The accuracy on the rows `new_n` of a ridge classifier that is fitted on the others."""
    x = torch.cat([x_nd, torch.ones(len(x_nd), 1, dtype=x_nd.dtype)], 1)
    goal = F.one_hot(y_n, len(THINGS)).double()
    seen = ~new_n
    gram = x[seen].T @ x[seen] + 1e-2 * torch.eye(x.shape[1], dtype=x.dtype)
    answers = (x[new_n] @ torch.linalg.solve(gram, x[seen].T @ goal[seen])).argmax(1)
    return float((answers == y_n[new_n]).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    tokenizer = T5Tokenizer.from_pretrained(args.run / "tokenizer_2")
    captions = Pieces(tokenizer)  # type: ignore[arg-type]
    targets = meanings(args.run, captions.phrase_list)
    torch.manual_seed(1)
    model = T5EncoderModel(config(len(tokenizer)))
    heads = Heads(WIDTH, len(captions.points), targets.shape[1])
    both = nn.ModuleDict({"tower": model, "heads": heads})
    optimiser = Muon(both, MUON_LR, ADAM_LR, ("shared", "relative_attention_bias", "heads"))
    log = Log(args.run / "t5.jsonl")
    for step in Checkpoint(args.run / "t5.pt", both, optimiser).steps(args.steps, every=200):
        rng = np.random.default_rng([2, step])
        items = [captions.phrase(rng) if i % 2 else captions.styled(rng) for i in range(BATCH)]
        optimiser.schedule(learning_rate(step + 1, args.steps, 1.0, 50))
        parts = losses(model, heads, items, targets, MAX_TOKENS if step % 4 == 0 else 16)
        optimiser.zero_grad()
        sum(parts.values()).backward()
        optimiser.step()
        if (step + 1) % 25 == 0:
            log(step=step + 1, **{k: round(v.item(), 4) for k, v in parts.items()})
    model.save_pretrained(args.run / "text_encoder_2")
    RESULTS.mkdir(exist_ok=True)
    torch.manual_seed(2)
    found = {
        "trained": probes(model.eval(), tokenizer),
        "random weights": probes(T5EncoderModel(model.config).eval(), tokenizer),
    }
    (RESULTS / "tokens.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
