"""Reads what the loggers wrote and prints it as JSON, numbers in hexadecimal (float.hex) so that
none is rounded on the way.

csv FILE      [{step, metrics: [[name, number], ...]}, ...] through the csv module
jsonl FILE    the same through the json module
events FILE   the same through TensorBoard's EventFileLoader, which checks every CRC; each event
              must also be the bytes that protobuf makes of it
sessions FILE            the kinds of the events: [[kind, step], ...]
accumulate FOLDER        {tag: [[step, number], ...]}, what TensorBoard shows of a run, if both its
                         readers agree
accumulate_each FOLDER   {name: that} of the runs in the folder
"""

import csv
import json
import logging
import pathlib
import sys

from tensorboard.backend.event_processing import (
    event_accumulator,
    event_file_loader,
    plugin_event_accumulator,
)
from tensorboard.util import tensor_util


def hexadecimal(number):
    return float(number).hex()


def read_csv(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        header, *rows = csv.reader(file, strict=True)
    assert header[:2] == ["epoch", "step"], header
    assert len(header) == len(set(header)), header
    for row in rows:
        assert len(row) == len(header), row
        cells = [(name, cell) for name, cell in zip(header, row) if cell and name != "step"]
        metrics = [[name, hexadecimal(cell)] for name, cell in cells]
        yield {"step": int(row[1]), "metrics": metrics}


def read_jsonl(path):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            row = json.loads(line, parse_constant=refuse)
            assert list(row) == ["schema", "epoch", "step", "metrics"], row
            assert row["schema"] == 1, row
            metrics = [[name, hexadecimal(value)] for name, value in row["metrics"].items()]
            if row["epoch"] is not None:
                metrics.append(["epoch", hexadecimal(row["epoch"])])
            yield {"step": row["step"], "metrics": metrics}


def load_events(path):
    """Events as they are, which protobuf must write back as the same bytes."""
    records = event_file_loader.RawEventFileLoader(path).Load()
    events = event_file_loader.LegacyEventFileLoader(path).Load()
    for record, event in zip(records, events, strict=True):
        assert event.SerializeToString(deterministic=True) == record, event
        yield event


def read_events(path):
    seen = set()
    for event in load_events(path):
        for value in event.summary.value:
            plugin = value.metadata.plugin_data.plugin_name
            assert plugin == ("" if value.tag in seen else "scalars"), event
            seen.add(value.tag)
    for event in event_file_loader.EventFileLoader(path).Load():
        if event.HasField("summary"):
            metrics = [
                [value.tag, hexadecimal(tensor_util.make_ndarray(value.tensor).item())]
                for value in event.summary.value
            ]
            yield {"step": event.step, "metrics": metrics}


def sessions(path):
    for event in load_events(path):
        kind = event.WhichOneof("what")
        if kind == "session_log":
            assert event.session_log.status == event.session_log.START, event
        if kind == "file_version":
            assert event.file_version == "brain.Event:2", event
        yield [kind, event.step]


def accumulate(folder):
    everything = {event_accumulator.SCALARS: 0, event_accumulator.TENSORS: 0}
    old = event_accumulator.EventAccumulator(folder, size_guidance=everything).Reload()
    new = plugin_event_accumulator.EventAccumulator(folder, size_guidance=everything).Reload()
    tags = old.Tags()["scalars"]
    assert sorted(tags) == sorted(new.Tags()["tensors"])
    assert sorted(tags) == sorted(new.PluginTagToContent("scalars"))
    points = {tag: [[e.step, hexadecimal(e.value)] for e in old.Scalars(tag)] for tag in tags}
    for tag in tags:
        tensors = [(e.step, tensor_util.make_ndarray(e.tensor_proto)) for e in new.Tensors(tag)]
        assert points[tag] == [[step, hexadecimal(value)] for step, value in tensors], tag
    return points


def accumulate_each(folder):
    runs = [path for path in pathlib.Path(folder).iterdir() if path.is_dir()]
    return {run.name: accumulate(str(run)) for run in runs}


if __name__ == "__main__":
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every purge
    kind, path = sys.argv[1:]
    if kind.startswith("accumulate"):
        result = {"accumulate": accumulate, "accumulate_each": accumulate_each}[kind](path)
    else:
        reader = {"csv": read_csv, "jsonl": read_jsonl, "events": read_events, "sessions": sessions}
        result = list(reader[kind](path))
    json.dump(result, sys.stdout)
