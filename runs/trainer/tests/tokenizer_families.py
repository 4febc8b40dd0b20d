"""Small tokenizers of every family that has a fast form, trained in milliseconds, with control
tokens of every kind."""

import json
from collections.abc import Callable
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

# The names are in the corpus: a tokenizer's model could compose them out of letters.
SPECIAL = ["<unk>", "<s>", "</s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
MARKUP = ["<think>", "</think>"]  # added, but not marked as special
TURN = "<|turn|>"  # added, not marked as special, though templates write it
NAMES = [*SPECIAL, *MARKUP, TURN]
CORPUS = [
    *(f"{name}{name} {name}" for name in NAMES),
    "the end of them all: a red dog, an old friend, of course; sums of odd numbers and so on",
    "user assistant system Question: what is 17 + 4? Answer: 21\n\n    indented   text\n",
] * 3
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# How tiktoken's encodings split texts.
TIKTOKEN = (
    r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level() -> Tokenizer:
    """GPT-2, SmolLM2."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def tiktoken() -> Tokenizer:
    """Llama 3, Qwen: words that are in the vocabulary are taken whole."""
    split = pre_tokenizers.Split(Regex(TIKTOKEN), "isolated")
    backend = Tokenizer(models.BPE(ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece_bpe() -> Tokenizer:
    """A model of characters and merges with bytes for all others, the control tokens in its
    vocabulary."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=700, special_tokens=[*SPECIAL, *BYTES], show_progress=False),
    )
    content = json.loads(backend.to_str())
    # only the bytes would be wrong here; the others come back with the names
    content["added_tokens"] = []
    fallback = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend = Tokenizer.from_str(json.dumps(content))
    backend.decoder = decoders.Sequence([*fallback, decoders.Strip(" ", 1, 0)])
    return backend


def llama2() -> Tokenizer:
    """Llama 2: a normalizer puts a blank before whatever follows a control token."""
    backend = _sentencepiece_bpe()
    backend.pre_tokenizer = None
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return backend


def metaspace() -> Tokenizer:
    """The same without legacy: a blank only before the very first word."""
    backend = _sentencepiece_bpe()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return backend


def gemma() -> Tokenizer:
    """Gemma: no blank is put anywhere, and white space has tokens of its own."""
    backend = _sentencepiece_bpe()
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.add_tokens([AddedToken(text, normalized=False) for text in ("\n\n", "▁▁", "\t")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return backend


def unigram() -> Tokenizer:
    """T5, XLM-R: the vocabulary holds the control tokens as pieces with the best score."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    content = json.loads(backend.to_str())
    content["model"]["vocab"] += [[byte, -30.0] for byte in BYTES]
    content["model"]["byte_fallback"] = True
    backend = Tokenizer.from_str(json.dumps(content))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return backend


def wordpiece() -> Tokenizer:
    """BERT: lower case, no accents, no white space."""
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(
        CORPUS,
        trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False),
    )
    backend.decoder = decoders.WordPiece()
    return backend


FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    maker.__name__: maker
    for maker in (byte_level, tiktoken, llama2, metaspace, gemma, unigram, wordpiece)
}
# Families whose decoder gives back exactly the text that was encoded.
LOSSLESS = ("byte_level", "gemma")


def make_tokenizer_folder(folder: Path, family: str, template: str | None) -> Path:
    """A folder with the files of a tokenizer of ``family``."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=FAMILIES[family](),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<|end|>",
    )
    tokenizer.add_special_tokens(
        {
            "additional_special_tokens": [
                name for name in SPECIAL if name not in ("<unk>", "<s>", "<|end|>")
            ]
        }
    )
    # As DeepSeek has its turns: added and normalized, not marked as special.
    tokenizer.add_tokens(
        [
            AddedToken(name, normalized=name == TURN and family != "llama2", special=False)
            for name in (*MARKUP, TURN)
        ]
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder
