"""All closed vocabularies of the project. Imports no other module of this project."""

from typing import Literal, get_args

Role = Literal["system", "user", "assistant", "tool"]
Axis = Literal["complexity", "quality"]
Layout = Literal["alpaca", "sharegpt", "messages", "prompt-response"]
Format = Literal["same", "messages", "sharegpt", "alpaca"]
Turns = Literal["fit", "sum", "mean", "max"]
PresetName = Literal["laptop", "paper"]
Status = Literal["ok", "truncated", "unreadable"]
# The outcome of a selection for a sample.
Fate = Literal["selected", "near_duplicate", "over_budget", "rejected"]
Precision = Literal["float32", "bfloat16"]
Pooling = Literal["last", "mean", "weighted"]
Storage = Literal["float32", "float16"]
# Where a text too long for a scorer is truncated.
Cut = Literal["middle", "end"]
# Kinds of scorers and encoders.
ScorerKind = Literal["head", "causal", "served"]
TrainedKind = Literal["head", "causal"]
EncoderKind = Literal["sentence", "causal"]
Method = Literal["lora", "full"]
Axes = Literal["complexity", "quality", "both"]

ROLES: tuple[Role, ...] = get_args(Role)
AXES: tuple[Axis, ...] = get_args(Axis)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
