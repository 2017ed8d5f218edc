"""Chat templates of the four families, written for the tests, and tokenizers that have their special tokens."""

from deita_core.alignment.chat import CHATML, VICUNA
from tests.support.tiny_llama import make_tokenizer

LLAMA3 = (
    "{{ bos_token }}"
    "{% if tools %}{{ '<|start_header_id|>system<|end_header_id|>\n\n' + (tools | tojson) + '<|eot_id|>' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% if message.get('tool_calls') %}"
    "{% for call in message['tool_calls'] %}{{ call['function'] | tojson }}{% endfor %}"
    "{% else %}{{ message['content'] | trim }}{% endif %}"
    "{{ '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# The system text stands before the last user message, and there is no prompt of its own for an answer.
MISTRAL = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% set last = turns | map(attribute='role') | list %}"
    "{{ bos_token }}"
    "{% for message in turns %}"
    "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' }}{% if system and 'user' not in last[loop.index:] %}{{ system + '\n\n' }}{% endif %}"
    "{{ message['content'] + '[/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant messages') }}{% endif %}"
    "{% endfor %}"
)
# The reasoning of an answer is shown until a later answer follows.
THINKING = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.last and message.get('reasoning_content') %}"
    "{{ '<think>' + message['reasoning_content'] + '</think>' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Template, special tokens, and what ends an answer.
FAMILIES = {
    "chatml": (CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "llama3": (LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>"),
    "vicuna": (VICUNA, (), "</s>"),
    "mistral": (MISTRAL, ("[INST]", "[/INST]"), "</s>"),
    "thinking": (THINKING, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
}
# In these an answer is set off from its prompt by a space.
SPACED = ("vicuna", "mistral")


def chat_tokenizer(family: str, padding_side: str = "right"):
    """A tokenizer of 512 tokens with a family's template and special tokens."""
    template, specials, _ = FAMILIES[family]
    tokenizer = make_tokenizer(specials=specials)
    tokenizer.chat_template = template
    tokenizer.padding_side = padding_side
    tokenizer.pad_token = "</s>"
    return tokenizer
