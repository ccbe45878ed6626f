"""Muon: momentum whose matrix updates are orthogonalised; the rest of the parameters take AdamW.

Formula: M <- mu M + G; U = NewtonSchulz5(G + mu M) (all singular values near 1);
W <- W - lr * sqrt(max(1, rows / columns)) * U. Kernels of convolutions are flattened to out x (in k k).
Source: Keller Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/.
MODEL_CARD.md has a comparison with AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(g_nm: Tensor, steps: int = 5) -> Tensor:
    """The quintic Newton-Schulz iteration: singular values pushed to about 1, in bfloat16."""
    a, b, c = COEFFICIENTS
    wide = g_nm.shape[-2] <= g_nm.shape[-1]
    x = (g_nm if wide else g_nm.mT).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.mT).to(g_nm.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for matrices and kernels of one module, AdamW for its vectors and for the modules named."""

    def __init__(
        self, module: nn.Module, lr: float, adam_lr: float, adam_names: Iterable[str] = (), momentum: float = 0.95
    ):
        names = tuple(adam_names)
        matrices, rest = [], []
        for name, p in module.named_parameters():
            (rest if p.ndim < 2 or any(n in name for n in names) else matrices).append(p)
        self.adam = torch.optim.AdamW(rest, adam_lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
        self.peaks = (lr, adam_lr)
        super().__init__(matrices, dict(lr=lr, momentum=momentum))

    def schedule(self, factor: float) -> None:
        """Set both learning rates to this share of their peaks."""
        for group in self.param_groups:
            group["lr"] = self.peaks[0] * factor
        for group in self.adam.param_groups:
            group["lr"] = self.peaks[1] * factor

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.adam.step()
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                m = state["momentum"]
                m.lerp_(p.grad, 1 - group["momentum"])
                update = torch.lerp(p.grad, m, group["momentum"]).reshape(len(p), -1)
                by_shape.setdefault((update.shape[0], update.shape[1]), []).append((p, update))
            for (rows, columns), pairs in by_shape.items():
                updates = orthogonalise(torch.stack([u for _, u in pairs]))
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                for (p, _), u in zip(pairs, updates, strict=True):
                    p.add_(u.reshape(p.shape), alpha=-scale)

    def full_state(self) -> dict:
        return {"muon": self.state_dict(), "adam": self.adam.state_dict()}

    def load_full_state(self, state: dict) -> None:
        self.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        self.adam.zero_grad(set_to_none)
