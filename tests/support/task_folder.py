"""A small task of multiple choice for lm-evaluation-harness, in a folder of its own."""

import json

TASK = """
task: things
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder}/things.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata: {{version: 1.0}}
"""
ROWS = [
    {"question": f"What is {n}?", "choices": ["tea", "an old clock", "the moon"], "answer": n % 3} for n in range(12)
]


def write_task(folder):
    """Write the task `things` and its rows to a folder; returns it."""
    folder.mkdir(parents=True)
    (folder / "things.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "things.yaml").write_text(TASK.format(folder=folder))
    return folder
