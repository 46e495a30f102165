"""Writes telemetry/tensorboard/testdata/golden.tfevents with the real tensorboard package's record writer and protos.

    $(tools/venv.sh) tools/golden/tfevents.py
"""

import json
import pathlib

import tensorboard
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

out = pathlib.Path(__file__).parents[2] / "telemetry/tensorboard/testdata/golden.tfevents"
out.parent.mkdir(parents=True, exist_ok=True)
with open(out, "wb") as f:
    w = RecordWriter(f)
    w.write(Event(wall_time=1700000000.5, file_version="brain.Event:2").SerializeToString())
    for step, loss in ((1, 3.25), (300, -0.5)):
        values = [Summary.Value(tag="train/loss", simple_value=loss), Summary.Value(tag="train/grad_norm", simple_value=1e-3)]
        w.write(Event(wall_time=1700000000.5 + step, step=step, summary=Summary(value=values)).SerializeToString())
    w.flush()
(out.parent / "versions.json").write_text(json.dumps({"tensorboard": tensorboard.__version__}) + "\n")
