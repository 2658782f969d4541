"""The same work with Lightning."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.benchmarks.peers import model as models
from tests.benchmarks.peers.plain import loaders
from tests.benchmarks.peers.workload import Workload, contend

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")


class Classifier(lightning.LightningModule):
    """A backbone with a new head, and the phase that it is in."""

    def __init__(self, workload: Workload, strategy: dict[str, Any], seed: int) -> None:
        super().__init__()
        self.model = models.build(workload, strategy, seed)
        self.groups = models.groups(self.model)
        self.strategy, self.phase = strategy, strategy["phases"][0]

    def begin(self, phase: dict[str, Any]) -> None:
        """Freeze and thaw."""
        self.phase = phase
        models.thaw(self.groups, self.strategy, phase["rates"])

    def on_train_epoch_start(self) -> None:
        """Frozen groups evaluate."""
        models.set_training(self.groups, self.strategy, self.phase["rates"])

    def configure_optimizers(self) -> Any:
        """AdamW with a rate for each group, cosine to zero."""
        rates = self.phase["rates"]
        optimizer = torch.optim.AdamW([{"params": self.groups[n].parameters(), "lr": rates[n]} for n in rates])
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Loss of one batch."""
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Accuracy of one batch."""
        images, labels = batch
        self.log("accuracy", (self.model(images).argmax(1) == labels).float().mean(), batch_size=len(labels))


def train(workload: Workload, strategy: dict[str, Any], seed: int) -> float:
    """Train one run; its accuracy after the last epoch."""
    module = Classifier(workload, strategy, seed)
    training, validation = loaders(workload, seed)
    accuracy = 0.0
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    for phase in strategy["phases"]:
        module.begin(phase)
        trainer = lightning.Trainer(
            accelerator="cpu", max_epochs=phase["epochs"], num_sanity_val_steps=0, **quiet  # type: ignore[arg-type]
        )  # fmt: skip
        trainer.fit(module, training, validation)
        accuracy = float(trainer.callback_metrics["accuracy"])
    return accuracy


if __name__ == "__main__":
    contend(train)
