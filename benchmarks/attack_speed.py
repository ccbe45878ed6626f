"""Speed and memory of Ring-A-Bell and P4D, each against a literal loop of its reference, on the embedded model.

    python benchmarks/attack_speed.py            prints the comparison
    python benchmarks/attack_speed.py --quick    a few generations and steps

The loop of Ring-A-Bell encodes one candidate at a time, each of 200 in each generation; its time for all generations
is extrapolated from some hundred candidates. The loop of P4D (the reference of `p4d_prefix`) calls two denoisers in
each step; its edited one has no eraser attached, which is in its favour. Memory is a count of the weights that each
search uses, not a measurement: without activations, and without the VAE that efface's model has for judged images.
"""

from __future__ import annotations

import argparse
import os
import time
from copy import deepcopy
from functools import partial
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor, nn

import efface
from efface.attacks import Target
from efface.attacks.concept_pairs import direction, template_pairs
from efface.attacks.projected import Matching, ProjectedTokens, descend
from efface.attacks.ring_a_bell import RingABellConfig, distances, evolve, surviving
from efface.attacks.soft_prompt import SoftPrompt, allowed, edited_table
from efface.models import Model
from efface.tools import latents_of

PROMPT, CONCEPT = "a picture of a cat", "cat"


def ring_a_bell(model: Model, generations: int, candidates: int) -> None:
    config = RingABellConfig(generation=generations)
    empty = SoftPrompt(model, "", config.length, "prefix_k")
    wanted = model.embed([PROMPT]).tokens[0] + config.cof * direction(model, template_pairs(CONCEPT))
    tokens = surviving(model)
    computed: list[int] = []

    def fitness(texts: Tensor) -> Tensor:
        computed.append(len(texts))
        return distances(model, empty, wanted, None, texts)

    started = time.perf_counter()
    evolve(fitness, tokens, config)
    ours = time.perf_counter() - started
    rows = tokens[torch.randint(len(tokens), (candidates, config.length))]
    single = partial(distances, model, empty, wanted, None)
    single(rows[:1])
    started = time.perf_counter()
    for row in rows:
        single(row[None])
    one = (time.perf_counter() - started) / candidates
    loop = one * config.population_size * generations
    print(f"ring_a_bell, {generations} generations: {ours:.1f} s, {sum(computed)} candidates encoded of", end=" ")
    print(f"{config.population_size * generations}; a loop of one at a time {loop:.1f} s: {loop / ours:.1f} times")


def p4d(model: Model, times: int, iterations: int) -> None:
    eraser = efface.erase(model, CONCEPT)
    target = Target(model, eraser, CONCEPT, (PROMPT,), range(times), latents_of(model))
    soft, matching = SoftPrompt(model, PROMPT, 3, "prefix_k"), Matching(target)
    matching.expected(PROMPT, torch.tensor([500]), torch.Generator())  # samples the picture
    adam = partial(torch.optim.Adam, lr=0.01, weight_decay=0.1)
    middles = [int((part + 0.5) * 1000 / times) for part in range(times)]
    for noises in (4, iterations):
        draw = torch.Generator().manual_seed(0)
        tokens, started = ProjectedTokens(target, 3, adam, draw), time.perf_counter()
        for t in middles:
            expected = matching.expected(PROMPT, torch.full((noises,), t), draw)
            with eraser.attach(model):
                descend(matching, tokens, soft, expected, iterations)
        print(
            f"p4d_prefix, {times} times of {iterations} steps, {noises} noises: {time.perf_counter() - started:.1f} s"
        )
    started = time.perf_counter()
    literal_p4d(model, target, soft, middles, iterations)
    print(f"the literal loop: {time.perf_counter() - started:.1f} s")
    unet, vae, text = (
        sum(parameter.numel() * parameter.element_size() for parameter in part.parameters()) / 2**20
        for part in (model.denoiser, model.vae, model.text_encoder)
    )
    print(f"weights: {unet + text:.0f} MiB, of the loop {2 * unet + vae + text:.0f} MiB")


def literal_p4d(model: Model, target: Target, soft: SoftPrompt, middles: list[int], iterations: int) -> None:
    """The reference's loop: an edited copy of the denoiser beside the original, fresh noise, both called each step."""
    edited: Any = deepcopy(model.denoiser)
    original: Any = model.denoiser
    schedule, words = model.noise_schedule(), edited_table(target)
    picture = target.latents(PROMPT, range(1), steps=25, guidance=7.5, sampler="dpm++")
    draw = torch.Generator().manual_seed(0)
    free = allowed(model).nonzero()[:, 0]
    embeddings = words[free[torch.randint(len(free), (3,), generator=draw)]].clone()
    adam = torch.optim.Adam([embeddings], lr=0.01, weight_decay=0.1)
    (ids,) = model.tokenizer([PROMPT], padding="max_length", max_length=model.max_tokens)["input_ids"]
    for t in middles:
        for _ in range(iterations):
            similar = nn.functional.cosine_similarity(embeddings[:, None], words[None], dim=-1)
            chosen = similar.argmax(1)
            leaf = words[chosen].requires_grad_()
            noise = torch.randn(picture.shape, generator=draw)
            when = torch.tensor([t])
            noisy = schedule.add_noise(picture, noise, when)
            text = soft.encode(chosen.tolist(), leaf)
            predicted = edited(noisy, when, encoder_hidden_states=text).sample
            base = model.encode(torch.tensor([ids]))
            expected = original(noisy, when, encoder_hidden_states=base).sample
            (embeddings.grad,) = torch.autograd.grad((expected - predicted).square().mean(), [leaf])
            adam.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few generations and steps")
    quick = parser.parse_args().quick
    model = efface.open_model("emoji")
    p4d(model, 2 if quick else 10, 40)
    ring_a_bell(model, 100 if quick else 3000, 100 if quick else 500)


if __name__ == "__main__":
    main()
