"""The same batches as loader.cpp from PyTorch's DataLoader, without workers, which is its fastest way here."""

import csv
import gzip
import sys
import time

import torch
from torch.utils.data import DataLoader, TensorDataset

WARMUP_EPOCHS = 3


def count_samples(loader, num_epochs):
    return sum(len(labels) for _ in range(num_epochs) for _, labels in loader)


def main():
    num_epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    torch.set_num_threads(1)
    with gzip.open("data/digits.csv.gz", "rt") as file:
        table = torch.tensor([[float(cell) for cell in row] for row in csv.reader(file)])
    digits = TensorDataset(table[:, :64].contiguous(), table[:, 64].long())
    loader = DataLoader(digits, batch_size=32, shuffle=True)
    count_samples(loader, WARMUP_EPOCHS)
    begin = time.perf_counter()
    samples = count_samples(loader, num_epochs)
    print(f"us_per_sample={1e6 * (time.perf_counter() - begin) / samples:.6g}")


main()
