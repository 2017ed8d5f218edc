"""Completions with log probabilities for the test server: from a real causal LM in a folder, or scripted by the test.

with LLMServer(completions=ModelCompletions(folder)) as server: ...
"""

import copy
import math
from threading import Lock

# Faults of a reply that is whole but for its log probabilities.
LISTING_FAULTS = (
    "no_logprobs",
    "empty_top_logprobs",
    "nan_logprobs",
    "positive_logprobs",
    "null_logprob",
    "text_logprobs",
)
# A listing that says 3, with nothing left open.
SURE = [("3", -0.01), ("2", -5.0), ("4", -6.0), ("1", -9.0), ("5", -9.5), ("6", -11.0), ("\n", -12.0), ("a", -13.0)]


def spoiled(fault, body):
    """A good completion's body with one thing wrong in its log probabilities."""
    body = copy.deepcopy(body)
    [choice] = body["choices"]
    top = choice["logprobs"]["top_logprobs"]
    if fault == "no_logprobs":
        choice["logprobs"] = None
    elif fault == "empty_top_logprobs":
        choice["logprobs"]["top_logprobs"] = [{}]
    elif fault == "text_logprobs":
        choice["logprobs"] = "-0.5"
    else:
        wrong = {"nan_logprobs": math.nan, "positive_logprobs": 1.5, "null_logprob": None}[fault]
        top[0][next(iter(top[0]))] = wrong
    return body


def completion(sent, top, chosen=None, layout="legacy"):
    """The body of a reply: `top` are (token, log probability); `chosen` likewise, by default the first."""
    token, logprob = chosen or top[0]
    if layout == "content":
        listed = [{"id": 0, "token": t, "bytes": list(t.encode()), "logprob": lp} for t, lp in top]
        place = {"id": 0, "token": token, "bytes": list(token.encode()), "logprob": logprob, "top_logprobs": listed}
        logprobs = {"content": [place]}
    else:
        logprobs = {
            "tokens": [token],
            "token_logprobs": [logprob],
            "top_logprobs": [dict(top)],
            "text_offset": [len(sent["prompt"])],
        }
    choice = {"index": 0, "text": token, "logprobs": logprobs, "finish_reason": "length"}
    body = {"id": "cmpl-double", "object": "text_completion", "created": 0, "model": sent["model"]}
    return {**body, "choices": [choice], "usage": {"prompt_tokens": len(sent["prompt"]) // 4, "completion_tokens": 1}}


def refused(message, code=None):
    """Status and body of a 400."""
    return 400, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": code}}


class Scripted:
    """Completions that list the same tokens whatever is asked; the prompts asked are kept in `asked`."""

    def __init__(self, top, chosen=None, layout="legacy"):
        self.asked, self._reply = [], (top, chosen, layout)

    def __call__(self, sent):
        """Status and body for a request."""
        self.asked.append(sent)
        return 200, completion(sent, *self._reply)


class ModelCompletions:
    """Completions of the causal LM in a folder, in float32: its true log probabilities after the prompt.

    `most`: a larger `logprobs` is refused. `window`: tokens of prompt and answer, None for the model's own. `bias`:
    whether log probabilities are given "before" or "after" a `logit_bias` is added. `write`: how a token is spelled.
    """

    def __init__(self, folder, most=20, window=None, bias="after", layout="legacy", write=str):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.asked = []
        self._torch, self._lock = torch, Lock()
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._most, self._bias, self._layout, self._write = most, bias, layout, write
        self._window = window or self._model.config.max_position_embeddings

    def __call__(self, sent):
        """Status and body for a request."""
        self.asked.append(sent)
        ids = self._tokenizer(sent["prompt"])["input_ids"]
        if sent["logprobs"] > self._most:
            said = f"Requested sample logprobs of {sent['logprobs']}, which is greater than max allowed: {self._most}"
            return refused(said)
        if len(ids) + sent["max_tokens"] > self._window:
            said = f"This model's maximum context length is {self._window} tokens. However, you requested {len(ids)}."
            return refused(said)
        with self._lock, self._torch.inference_mode():
            logits = self._model(self._torch.tensor([ids])).logits[0, -1].float()
        biased = logits.clone()
        for id_, bias in (sent.get("logit_bias") or {}).items():
            biased[int(id_)] += bias
        likely = (logits if self._bias == "before" else biased).log_softmax(dim=0)
        ids = likely.topk(sent["logprobs"]).indices.tolist()
        chosen = int(biased.argmax())
        # As vLLM has it: the chosen token is listed, whatever its place.
        ids += [chosen] if chosen not in ids else []
        top = [self._entry(id_, likely) for id_ in ids]
        return 200, completion(sent, top, self._entry(chosen, likely), self._layout)

    def _entry(self, id_, likely):
        return self._write(self._tokenizer.decode([id_])), float(likely[id_])


def lean_to_digits(folder):
    """Make the causal LM in a folder go on with a digit after the scoring prompts, as a scorer does."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from deita_core.scorers.prompts import scoring_prompt

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    digits = [tokenizer.convert_tokens_to_ids(str(k)) for k in range(1, 7)]
    with torch.no_grad():
        prompts = [scoring_prompt(axis, "What is tea?", "A drink.") for axis in ("complexity", "quality")]
        last = [model.model(**tokenizer(p, return_tensors="pt")).last_hidden_state[0, -1] for p in prompts]
        towards = torch.stack(last).mean(dim=0)
        model.lm_head.weight[digits] += 15 * towards / towards.square().sum()
    model.save_pretrained(folder)
    return folder
