"""The learning curve of a training, as a picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from av2t_core.training.folder import Entry


def draw_curve(entries: Sequence[Entry], title: str, out: Path) -> None:
    """Loss and validation IoU over the epochs, from the entries of a log that are of epochs."""
    epochs = [entry for entry in entries if "val_miou" in entry]
    numbers = [entry["epoch"] for entry in epochs]
    ious = [entry["val_miou"] for entry in epochs]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    losses = [entry["loss"] for entry in epochs]
    [loss] = left.plot(numbers, losses, color="tab:gray", marker=".", label="training loss")
    best = max(range(len(epochs)), key=ious.__getitem__)
    told = f"validation mIoU, best {ious[best]:.3f} in epoch {numbers[best]}"
    [iou] = right.plot(numbers, ious, color="tab:blue", marker=".", label=told)
    left.set(xlabel="epoch", ylabel="loss (cross-entropy + 1 - soft IoU)", title=title, ylim=(0, None))
    right.set(ylabel="mIoU", ylim=(0, 1))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.grid(alpha=0.3)
    left.legend(handles=[loss, iou], loc="lower left")
    figure.savefig(out, dpi=120)
