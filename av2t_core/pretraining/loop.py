"""Training that several processes share, into a folder of results; what was interrupted goes on."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, distributed, nn
from tqdm import tqdm

from av2t_core.files import atomic_file
from av2t_core.prediction.predictor import computes_bf16


class Loop:
    """`fit` trains to a result, `result` reads one, `keep` writes one; `out` also has log.jsonl, the losses.

    A result is OUT/<name>.pt, tensors by name. Every `checkpoint_steps` OUT/<name>.checkpoint is written.
    """

    def __init__(self, out: Path, *, seed: int, checkpoint_steps: int) -> None:
        self.out, self.seed, self.checkpoint_steps = out, seed, checkpoint_steps

    def fit(
        self,
        name: str,
        model: nn.Module,
        loss: Callable[[np.random.Generator], Tensor],
        groups: list[dict[str, Any]],
        steps: int,
    ) -> None:
        """AdamW with a short warm-up and a cosine; the average of the weights (EMA) is what is kept."""
        done = (self.out / f"{name}.pt").exists()
        distributed.barrier()  # or a process that comes late could take the others' result for an earlier run's
        if done:
            return
        optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: _cosine(s, steps))
        average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        checkpoint, first = self.out / f"{name}.checkpoint", 0
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            schedule.load_state_dict(state["schedule"])
            average, first = state["average"], state["step"]
        smooth = math.nan
        rank = distributed.get_rank()
        bar = tqdm(range(first, steps), name, initial=first, total=steps, mininterval=5, disable=rank > 0)
        model.train()
        for step in bar:
            # A generator for each step: what is drawn does not depend on where a run was interrupted.
            torch.manual_seed(self.seed * 1_000_003 + distributed.get_world_size() * step + rank)
            with torch.autocast("cpu", torch.bfloat16, enabled=computes_bf16(torch.device("cpu"))):
                value = loss(np.random.default_rng([self.seed, step, crc32(name.encode()), rank]))
            if not torch.isfinite(value):
                raise FloatingPointError(f"the loss of stage {name} is {value.item()} at step {step}")
            optimiser.zero_grad()
            torch.autograd.backward(value)
            _share_gradients(model)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            decay = min(0.999, (step + 1) / (step + 10))
            for key, tensor in model.state_dict().items():
                if tensor.is_floating_point():
                    average[key].lerp_(tensor.detach(), 1 - decay)
                else:
                    average[key].copy_(tensor)
            smooth = value.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * value.item()
            if rank == 0 and step % 50 == 49:
                bar.set_postfix(loss=f"{smooth:.4f}")
                self._log(stage=name, step=step + 1, loss=round(smooth, 5))
            if (step + 1) % self.checkpoint_steps == 0:
                self.keep(
                    checkpoint.name,
                    model=model.state_dict(),
                    optimiser=optimiser.state_dict(),
                    schedule=schedule.state_dict(),
                    average=average,
                    step=step + 1,
                )
        self.keep(f"{name}.pt", **average)
        checkpoint.unlink(missing_ok=True)

    def result(self, name: str) -> dict[str, Tensor]:
        state: dict[str, Tensor] = torch.load(self.out / f"{name}.pt", weights_only=True)
        return state

    def keep(self, name: str, **state: Any) -> None:
        """Written aside by the first process and renamed, so that a kill never leaves half a file."""
        if distributed.get_rank() == 0:
            with atomic_file(self.out / name) as aside:
                torch.save(state, aside)
        distributed.barrier()

    def _log(self, **entry: object) -> None:
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(entry) + "\n")


def _cosine(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / 100)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / max(1, steps))))


def _share_gradients(model: nn.Module) -> None:
    """Every process goes on with the mean of all gradients."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
