"""`python examples/averages.py` tests an average of the weights of a network with BatchNorm."""

import sklearn.datasets
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import yfkernels

EPOCHS = 8
TRAIN = 1200  # images; the others are for testing


def load_digits() -> tuple[Tensor, Tensor]:
    """1797 images of 8 x 8 pixels, flat, and their labels."""
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    loss = nn.functional.cross_entropy(model(images), labels).item()
    model.train()
    return loss


def main() -> None:
    torch.manual_seed(0)
    images, labels = load_digits()
    train = TensorDataset(images[:TRAIN], labels[:TRAIN])
    test = images[TRAIN:], labels[TRAIN:]
    loader = DataLoader(train, batch_size=16, shuffle=True)

    model = nn.Sequential(
        nn.Linear(64, 128),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )
    optimizer = yfkernels.YellowFin(model.parameters(), average=yfkernels.WeightAverage())

    before = evaluate(model, *test)
    for _ in range(EPOCHS):
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    print(f"loss: {before:.4f} -> {evaluate(model, *test):.4f}")

    # BatchNorm's running statistics are those of the trained weights. Given the model and training
    # data, `averaged` takes them anew for the average, and puts the old ones back at the end.
    with optimizer.averaged(model, loader):
        print(f"loss of the average: {evaluate(model, *test):.4f}")
    optimizer.use_average(model, loader)  # for good: model.state_dict() now has the average


if __name__ == "__main__":
    main()
