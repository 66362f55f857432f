"""Where each step finds and leaves its files: a work folder outside the repository."""

import os
from pathlib import Path

WORK = Path(os.environ.get("DANAUS_TRAINING", Path.home() / ".cache" / "danaus-training"))
PACKAGES = WORK / "debs"
DOCUMENTS = WORK / "documents.jsonl"
TEXTS = WORK / "texts.jsonl"
PAIRS = WORK / "pairs.jsonl"
TOKENS = WORK / "tokens.npz"
VECTORS = WORK / "vectors.f16"
CHECKPOINT = WORK / "checkpoint.pt"
LOG = WORK / "log.jsonl"

REPOSITORY = Path(__file__).resolve().parent.parent
BUILTIN = REPOSITORY / "models" / "builtin"
FIXTURES = REPOSITORY / "tests" / "fixtures" / "builtin"
TOKENIZER = REPOSITORY / "crates" / "model" / "assets" / "tokenizer.json"
