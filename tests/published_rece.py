"""RECE's published loop, written out: every layer a matrix of its own, inverted in every step."""

import torch
from torch import Tensor

from efface import Model, TextEdit


def all_tokens(model: Model, prompt: str) -> Tensor:
    return model.embed([prompt]).tokens[0].double()


def derived(new: list[Tensor], old: list[Tensor], c: Tensor, guide: Tensor, how: str, item: str, lam: float) -> Tensor:
    """The reference's embedding for tokens c (T, d), from sums over the layers."""
    eye = torch.eye(c.shape[1], dtype=torch.float64)
    gram, cross = torch.zeros_like(eye), torch.zeros_like(eye)
    for current, original in zip(new, old, strict=True):
        gram = gram + current.T @ current
        cross = cross + current.T @ original
    if how == "close_regzero":
        return c @ (torch.linalg.inv(lam * eye + gram) @ cross).T
    if how == "close_standardreg":
        return (lam * guide + c @ cross.T) @ torch.linalg.inv(lam * eye + gram).T
    left, right = {
        "1st": ((1 + lam) * gram, cross + lam * gram),
        "2nd": (gram + lam * eye, cross + lam * eye),
        "both": ((1 + lam) * gram + lam * eye, cross + lam * gram + lam * eye),
    }[item]
    return c @ (torch.linalg.inv(left) @ right).T


def published(
    model: Model, start: TextEdit, pairs: list[tuple[str, str]], retain: list[str], epochs: int, lam: float, **how: str
) -> list[Tensor]:
    """The weights after `epochs` of deriving and erasing, layer by layer."""
    old = [weight.double() for _, weight in model.text_weights()]
    new = [start.on(weight) for weight in old]
    for _ in range(epochs):
        found = [
            derived(new, old, all_tokens(model, concept), all_tokens(model, guide), how["how"], how["item"], lam)
            for concept, guide in pairs
        ]
        edited: list[Tensor] = []
        for weight in new:
            top = 0.1 * weight
            bottom = 0.1 * torch.eye(model.width, dtype=torch.float64)
            for tokens, (_, guide) in zip(found, pairs, strict=True):
                for token, aim in zip(tokens, all_tokens(model, guide), strict=True):
                    top = top + torch.outer(weight @ aim, token)
                    bottom = bottom + torch.outer(token, token)
            for prompt in retain:
                for token in all_tokens(model, prompt):
                    top = top + 0.1 * torch.outer(weight @ token, token)
                    bottom = bottom + 0.1 * torch.outer(token, token)
            edited.append(top @ torch.linalg.inv(bottom))
        new = edited
    return new
