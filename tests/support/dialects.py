"""One question and its answer in every layout that is read, and with a rejected answer beside."""

import json

Q, A, B = "Why?", "So.", "No."
ASKED, GOOD, BAD = (
    {"role": role, "content": text} for role, text in (("user", Q), ("assistant", A), ("assistant", B))
)  # fmt: skip


PLAIN = {
    "texts": {"prompt": Q, "completion": A},
    "lists": {"prompt": [ASKED], "completion": [GOOD]},
    "a list and a text": {"prompt": [ASKED], "completion": A},
    "lists as JSON texts": {"prompt": json.dumps([ASKED]), "completion": json.dumps([GOOD])},
    "problem": {"problem": Q, "solution": A},
    "query": {"query": Q, "response": A},
    "capitals": {"Instruction": Q, "Output": A},
    "capitals and spaces": {"Question ": Q, " Answer": A},
    "a struct of lists": {"messages": {"role": ["user", "assistant"], "content": [Q, A]}},
    "messages as JSON text": {"messages": json.dumps([ASKED, GOOD])},
    "an object as content": {"messages": [{"role": "user", "content": {"text": Q}}, GOOD]},
    "ChatGPT's parts": {"messages": [{"role": "user", "content": {"content_type": "text", "parts": [Q]}}, GOOD]},
    "dialog": {"dialog": [ASKED, GOOD]},
    "a batch request with its answer": {
        "custom_id": "1",
        "body": {"model": "m", "messages": [ASKED]},
        "response": {"status_code": 200, "body": {"choices": [{"message": GOOD}]}},
    },
    "a batch request that has an answer": {"body": {"messages": [ASKED, GOOD]}},
    "ChatML": {"text": f"<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n{A}<|im_end|>\n"},
    "headings": {"text": f"### Instruction:\n{Q}\n\n### Response:\n{A}"},
    "headings on one line": {"text": f"### Human: {Q}\n### Assistant: {A}"},
    "speakers": {"text": f"\n\nHuman: {Q}\n\nAssistant: {A}"},
}

CHOSEN = {
    "texts": {"prompt": Q, "chosen": A, "rejected": B},
    "lists": {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
    "a text and lists": {"prompt": Q, "chosen": [GOOD], "rejected": [BAD]},
    "conversations": {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    "conversations beside their prompt": {"prompt": Q, "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    "conversations beside messages": {
        "prompt": Q, "messages": [ASKED, GOOD], "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]
    },
    "marked texts": {"chosen": f"\n\nHuman: {Q}\n\nAssistant: {A}", "rejected": f"\n\nHuman: {Q}\n\nAssistant: {B}"},
    "OpenAI": {"input": {"messages": [ASKED]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
}  # fmt: skip
