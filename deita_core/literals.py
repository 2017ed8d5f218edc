"""All closed vocabularies of the project. Imports no other module of this project."""

from typing import Literal, get_args

Role = Literal["system", "user", "assistant", "tool"]
Axis = Literal["complexity", "quality"]
Layout = Literal["preference", "sharegpt", "messages", "alpaca", "prompt-response", "text"]
Format = Literal["same", "messages", "sharegpt", "alpaca"]
# Of a pair of a preferred and a rejected answer: which are read.
Preference = Literal["chosen", "both"]
Side = Literal["chosen", "rejected"]
# What a pool may hold besides text, and whether the reasoning before an answer is scored and encoded.
Modality = Literal["any", "text"]
Reasoning = Literal["score", "ignore"]
Turns = Literal["fit", "sum", "mean", "max"]
PresetName = Literal["laptop", "fast", "paper"]
Status = Literal["ok", "truncated", "unreadable"]
# Why a judge gave a text no score.
Unread = Literal[
    "blank", "no_reply", "cut_off", "held_back", "empty", "refused", "no_score", "other_scale", "two_scores",
    "name_twice",
]  # fmt: skip
# A removal has a row of each status: when it starts, and when nothing of the conversation is left.
RemovalStatus = Literal["started", "finished"]
# The outcome of a selection for a sample. redundant: it adds nothing to what is selected, such as no new tag.
# Those of LEFT_OUT are decided before the ranking.
Fate = Literal[
    "selected", "near_duplicate", "redundant", "over_quota", "over_budget", "filtered", "contaminated", "rejected"
]
# What samples are ranked by, and the rule that keeps them apart.
Rank = Literal[
    "evol", "complexity", "quality", "random", "longest", "perplexity", "ifd", "target", "wici", "instag"
]  # fmt: skip
Diversity = Literal["threshold", "clusters", "coverage", "tags", "none"]
# Known pairs of both.
Strategy = Literal["deita", "random", "longest", "kmq", "mig", "instag", "ifd", "wici", "perplexity", "rds"]
# How rows of a cluster are taken: drawn in proportion to their score, or the best.
ClusterDraw = Literal["score", "best"]
# ISO 639-1 codes of the languages that are told apart. The detector knows more; each one more takes short texts from
# its relatives, such as Afrikaans from Dutch.
Language = Literal[
    "am", "ar", "az", "be", "bg", "bn", "ca", "cs", "da", "de", "el", "en", "es", "et", "eu", "fa", "fi",
    "fr", "gu", "he", "hi", "hr", "hu", "hy", "id", "is", "it", "ja", "ka", "kk", "km", "kn", "ko", "lo",
    "lt", "lv", "mk", "ml", "mn", "mr", "ms", "my", "ne", "nl", "no", "or", "pa", "pl", "pt", "ro", "ru",
    "si", "sk", "sl", "sq", "sr", "sv", "sw", "ta", "te", "th", "tl", "tr", "uk", "ur", "uz", "vi", "yo", "zh",
]  # fmt: skip
# What came of an answer when preference pairs were made.
PairFate = Literal[
    "paired",
    "in_between",
    "margin_too_small",
    "near_identical",
    "no_other_answer",
    "no_score",
    "no_vector",
    "not_trained",
]
Precision = Literal["float32", "bfloat16"]
Pooling = Literal["last", "mean", "weighted"]
Storage = Literal["float32", "float16"]
# Where a text too long for a scorer is truncated.
Cut = Literal["middle", "end"]
# Kinds of scorers and encoders.
ScorerKind = Literal["head", "causal", "classifier", "served", "judge"]
# What a sequence classifier reads of a turn.
ClassifierText = Literal["chat", "pair", "answer", "instruction"]
TrainedKind = Literal["head", "causal"]
EncoderKind = Literal["sentence", "static", "causal"]
Method = Literal["lora", "full"]
AlignmentPreset = Literal["default", "paper"]
Axes = Literal["complexity", "quality", "both"]
# Subsets that a selection is proven against. full: the whole pool, for as many training tokens.
Rival = Literal["random", "longest", "full"]

ROLES: tuple[Role, ...] = get_args(Role)
AXES: tuple[Axis, ...] = get_args(Axis)
FATES: tuple[Fate, ...] = get_args(Fate)
# Fates that leave a sample without a rank.
LEFT_OUT: tuple[Fate, ...] = ("filtered", "contaminated", "rejected")
LANGUAGES: tuple[Language, ...] = get_args(Language)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
