"""The workload of step_overhead.cpp on Lightning, with its default callbacks and a CSVLogger.

lightning_mlp.py [STEPS]      prints start_s, rss_mb and us_per_step
"""

import os
import sys
import tempfile
import time

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

BATCH_SIZE = 8
WARMUP_STEPS = 500


def resident_mb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS:"))


class MLP(lightning.LightningModule):
    def __init__(self, num_steps):
        super().__init__()
        self.num_steps = num_steps
        self.fc1 = torch.nn.Linear(64, 64)
        self.fc2 = torch.nn.Linear(64, 10)

    def training_step(self, batch, batch_idx):
        if batch_idx == 0:
            self.start_s = time.time() - float(os.environ.get("BENCHMARK_START", "nan"))
            self.rss_mb = resident_mb()
        elif batch_idx == WARMUP_STEPS:
            self.begin = time.perf_counter()
        elif batch_idx == self.num_steps - 1:
            self.us_per_step = 1e6 * (time.perf_counter() - self.begin) / (batch_idx - WARMUP_STEPS)
        x, y = batch
        loss = cross_entropy(self.fc2(torch.relu(self.fc1(x))), y)
        self.log("loss_0", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main():
    num_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 3500
    torch.set_num_threads(1)
    lightning.seed_everything(42)
    num_samples = num_steps * BATCH_SIZE
    samples = TensorDataset(torch.randn(num_samples, 64), torch.randint(0, 10, (num_samples,)))
    module = MLP(num_steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", logger=CSVLogger(folder), default_root_dir=folder)
        trainer.fit(module, DataLoader(samples, batch_size=BATCH_SIZE, shuffle=True))
    for figure in ("start_s", "rss_mb", "us_per_step"):
        print(f"{figure}={getattr(module, figure):.6g}")


main()
