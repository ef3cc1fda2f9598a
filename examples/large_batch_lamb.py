"""`python examples/large_batch_lamb.py` trains with LAMB, a warm-up and batches of 1024 images."""

import sklearn.datasets
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

import yfkernels

STEPS = 100
WARMUP = 10
BATCH = 1024
LR = 0.02


def load_digits() -> tuple[Tensor, Tensor]:
    """1797 images of 8 x 8 pixels, flat, and their labels."""
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)


def main() -> None:
    torch.manual_seed(0)
    images, labels = load_digits()
    model = nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.ReLU(), nn.Linear(128, 10))

    # Biases and LayerNorm have no weight decay; in timm's LAMB they have no trust ratio either.
    groups = yfkernels.param_groups(model, weight_decay=0.01)
    optimizer = yfkernels.LAMB(groups, lr=LR, preset="timm")
    warmup = LinearLR(optimizer, start_factor=0.1, total_iters=WARMUP)
    cosine = CosineAnnealingLR(optimizer, T_max=STEPS - WARMUP)
    schedule = SequentialLR(optimizer, [warmup, cosine], milestones=[WARMUP])

    losses = []
    for _ in range(STEPS):
        batch = torch.randperm(len(images))[:BATCH]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())

    for name, ratio in optimizer.trust_ratios().items():
        print(f"{name}: trust ratio {ratio:.3g}")
    print(f"loss: {losses[0]:.4f} -> {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
