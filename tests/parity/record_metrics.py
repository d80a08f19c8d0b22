#!/usr/bin/env python3
"""Records what torchmetrics says of three uneven batches, for tests/metrics/metrics_test.cpp.

    python tests/parity/record_metrics.py > tests/golden/metrics.json

Run it by hand where torchmetrics is installed; the tests read only what it wrote: of each metric its arguments, what it
was given, its value after each batch alone and its value over all.
"""

import json

import torch
import torchmetrics.classification as classification
from torchmetrics.aggregation import MeanMetric
from torchmetrics.text import Perplexity

BATCHES = (7, 5, 1)


def rounded(tensor):
    return torch.round(tensor * 64) / 64  # exact in few digits


def multiclass(scores=True):
    for size in BATCHES:
        given = rounded(torch.randn(size, 4)) if scores else torch.randint(0, 4, (size,))
        yield given, torch.randint(0, 3, (size,))  # class 3 is predicted at times and never right


def segmentation():
    for size in BATCHES:
        yield rounded(torch.randn(size, 4, 3)), torch.randint(0, 4, (size, 3))


def binary(logits):
    for size in BATCHES:
        yield rounded(torch.randn(size) if logits else torch.rand(size)), torch.randint(0, 2, (size,))


def tokens():
    for size in BATCHES:
        yield rounded(torch.randn(size, 6, 10) * 2), torch.randint(0, 10, (size, 6))


def weighted():
    for size in BATCHES:
        yield rounded(torch.randn(size)), rounded(torch.rand(size))


def record(name, args, metric, batches):
    batches = list(batches)
    batch_values = [float(metric(*batch)) for batch in batches]
    return {
        "metric": name,
        "args": args,
        "batches": [[tensor.tolist() for tensor in batch] for batch in batches],
        "batch_values": batch_values,
        "value": float(metric.compute()),
    }


def main():
    torch.manual_seed(0)
    multi, one = classification.MulticlassAccuracy, classification.BinaryAccuracy
    cases = [
        *(record("Accuracy", {"num_classes": 4, "average": a}, multi(4, average=a), multiclass())
          for a in ("micro", "macro", "weighted")),
        record("Accuracy", {"num_classes": 4, "average": "macro"}, multi(4, average="macro"), multiclass(scores=False)),
        record("Accuracy", {"num_classes": 4, "average": "micro", "top_k": 2}, multi(4, average="micro", top_k=2),
               multiclass()),
        *(record("Accuracy", {"num_classes": 4, "average": a, "ignore_index": 1}, multi(4, average=a, ignore_index=1),
                 multiclass()) for a in ("micro", "macro")),
        record("Accuracy", {"num_classes": 4, "average": "micro"}, multi(4, average="micro"), segmentation()),
        record("BinaryAccuracy", {"threshold": 0.5}, one(), binary(logits=True)),
        record("BinaryAccuracy", {"threshold": 0.3}, one(threshold=0.3), binary(logits=False)),
        record("Perplexity", {}, Perplexity(), tokens()),
        record("Perplexity", {"ignore_index": 3}, Perplexity(ignore_index=3), tokens()),
        record("Mean", {}, MeanMetric(), weighted()),
    ]
    print("[" + ",\n".join(json.dumps(case) for case in cases) + "]")


if __name__ == "__main__":
    main()
