"""`python examples/lightning_module.py` trains a LightningModule and logs what YellowFin does."""

import tempfile

import lightning
import sklearn.datasets
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import yfkernels
from yfkernels.integrations.lightning import LogOptimizers


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # max_norm takes the place of the Trainer's gradient_clip_val.
        return yfkernels.YellowFin(self.parameters(), max_norm=1.0)


def load_digits() -> TensorDataset:
    """1797 images of 8 x 8 pixels, flat, and their labels."""
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    return TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))


def evaluate(module: Classifier, digits: TensorDataset) -> float:
    images, labels = digits.tensors
    with torch.no_grad():
        return nn.functional.cross_entropy(module.net(images), labels).item()


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    module = Classifier()
    before = evaluate(module, digits)
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=5,
            logger=CSVLogger(folder),
            log_every_n_steps=10,
            callbacks=[LogOptimizers()],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(module, DataLoader(digits, batch_size=64, shuffle=True))

    logged = trainer.callback_metrics
    print(f"lr {logged['optimizer/lr']:.2g}, momentum {logged['optimizer/momentum']:.2f}")
    print(f"loss: {before:.4f} -> {evaluate(module, digits):.4f}")


if __name__ == "__main__":
    main()
