"""Chat templates in the style of well-known models, and a tokenizer of bytes that has their special tokens.

Each has what its model's own has: special tokens around turns, roles of its own, what it trims, refuses and adds.
"""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{- bos_token }}{% for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
QWEN3 = (
    "{%- set ns = namespace(last=-1) %}{%- for message in messages %}{%- if message.role == 'user' %}"
    "{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.role == 'assistant' and loop.index0 > ns.last and loop.last %}"
    "{{- '<think>\n\n</think>\n\n' + message.content.lstrip('\n') }}{%- else %}{{- message.content }}{%- endif %}"
    "{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}{% else %}{{ ' [INST] ' + message['content'] + ' [/INST]' }}{% endif %}"
    "{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA, "qwen3": QWEN3, "mistral": MISTRAL}
ENDS = {
    "chatml": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "qwen3": "<|im_end|>",
    "mistral": "</s>",
}
NAMED = ["<pad>", "</s>", "<unk>", "<s>"]
TURNS = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>",
         "<end_of_turn>"]  # fmt: skip
MERGES = [("Ġ", "a"), ("Ċ", "Ċ"), ("a", "b"), (":", "Ġ"), ("Ġa", "b"), ("Ġ", "Ġ")]


def byte_tokenizer(chat: str | None = None, *, around: bool = True, last: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE with a few merges over blanks and line ends, as those of Llama 3 and Qwen.

    ``around``: the start token is put before a text, and with ``last`` the end token after it.
    """
    alphabet = [*NAMED, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]
    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(alphabet)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"[a-zé]+| ?[^\s\w]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in TURNS])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in ("<think>", "</think>")])
    return dressed(tokenizer, chat, around, last)


def piece_tokenizer(chat: str | None = None, *, around: bool = True, last: bool = False) -> PreTrainedTokenizerFast:
    """Pieces with a blank put before every text, as sentencepiece has it for Llama 2, Mistral and T5."""
    letters = [*NAMED, "▁", *map(chr, range(33, 127)), "\n", "▁a", "▁ab", "ab", "▁▁", "\n\n"]
    merges = [("▁", "a"), ("a", "b"), ("▁a", "b"), ("▁", "▁"), ("\n", "\n")]
    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(letters)}, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in TURNS])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in ("<think>", "</think>")])
    return dressed(tokenizer, chat, around, last)


def dressed(tokenizer: Tokenizer, chat: str | None, around: bool, last: bool) -> PreTrainedTokenizerFast:
    single = f"{'<s> ' if around else ''}$A{' </s>' if last else ''}"
    tokenizer.post_processor = processors.Sequence([
        *([processors.ByteLevel(trim_offsets=False)] if isinstance(tokenizer.decoder, decoders.ByteLevel) else []),
        processors.TemplateProcessing(single=single, special_tokens=[("<s>", 3), ("</s>", 1)]),
    ])  # fmt: skip
    found = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>"
    )
    found.chat_template = TEMPLATES[chat] if chat else None
    return found
