# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What every tokenizer can do, its two kinds (bytes; a Hugging Face tokenizer.json), and how to rebuild one from JSON.

A tokenizer is its JSON: the text is stored with a checkpoint, and its digest names the token stores made with it.
"""
import abc
import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import tokenizers

from jaxlm.core.errors import UserError, nearest
from jaxlm.core.types import Vocabulary
from jaxlm.data import digest
from jaxlm.data.tokenizers import alphabet, pairs, words
from jaxlm.data.tokenizers.chat import Template
from jaxlm.data.tokenizers.stream import Stream

# What a document separator is usually called, the most specific first.
SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "<|eos|>", "<eos>", "</s>", "[EOS]", "[SEP]")
# And the tokens that encoders are trained with; what a decoder begins every target with has no name of its own.
ROLES = {"pad": ("[PAD]", "<pad>", "<|pad|>"), "cls": ("[CLS]", "<cls>", "<s>"), "sep": ("[SEP]", "<sep>", "</s>"),
         "mask": ("[MASK]", "<mask>", "<|mask|>"), "start": ()}
# And those that stand for what was taken out of a text (T5), by their numbers: their ids fall as these rise in T5, and need not.
SENTINEL = re.compile(r"<extra_id_(\d+)>")


def usual(role: str, names: Iterable[str]) -> str | None:
    """The one of `names` that tokens of a role of ROLES usually have."""
    return next((name for name in ROLES.get(role, ()) if name in names), None)


class Tokenizer(abc.ABC):
    """Text <-> int32 ids in [0, vocab_size). `eot` separates documents; `special` maps each special token to its id.

    Special tokens written in a text are text: they are spelled out and never become special ids. No begin or
    end token is added.
    """
    vocab_size: int
    eot: int
    special: dict[str, int]
    unknown: str | None = None  # name of the token for what has none
    roles: Mapping[str, str] = MappingProxyType({})  # names of tokens of a role, where they are not the usual ones
    own_template: pairs.Template | None = None  # the special tokens that it came with to be put around a text
    chat: Template | None = None  # how a conversation is written, where the tokenizer came with a template

    @abc.abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of each text. UserError where a text is not Unicode (half a surrogate pair)."""

    @abc.abstractmethod
    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """Text of ids, with U+FFFD for bytes that are not UTF-8; special tokens are left out unless `special`."""

    @abc.abstractmethod
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Bytes of ids, exact where the tokenizer works on bytes; without special tokens."""

    @abc.abstractmethod
    def to_json(self, chat: bool = True) -> str:
        """All of the tokenizer, for `from_json`; without its chat template on request."""

    @abc.abstractmethod
    def to_hf_json(self) -> str:
        """The same tokenizer as a Hugging Face tokenizer.json."""

    @abc.abstractmethod
    def token_id(self, token: str) -> int:
        """Id of a token by its name in the vocabulary. UserError where there is none."""

    @abc.abstractmethod
    def continues(self) -> np.ndarray | None:
        """bool [vocab_size]: True where a token goes on with the word before it; None where words do not show."""

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """What an objective must know: ids of the special tokens, of their roles and the sentinels, and which tokens go on with a word."""
        roles = {role: None if self.role(role) is None else self.special[self.role(role)] for role in ROLES}
        numbered = sorted((int(found[1]), i) for name, i in self.special.items() if (found := SENTINEL.fullmatch(name)))
        return Vocabulary(self.vocab_size, self.eot, tuple(sorted({*self.special.values(), self.eot})), **roles,
                          continues=self.continues(), sentinels=tuple(i for _, i in numbered))

    def side(self, ids: np.ndarray) -> np.ndarray:
        """A text's ids as an encoder-decoder reads or answers it: behind the token of the role begin, where there is one.

        The eot that ends it is not among them, nor the start of a target.
        """
        begin = self.roles.get("begin")
        return ids if begin is None else np.concatenate([np.array([self.special[begin]], np.int32), ids])

    def role(self, role: str) -> str | None:
        """Name of the token of a role of ROLES."""
        return self.roles.get(role) or usual(role, self.special)

    @functools.cached_property
    def template(self) -> pairs.Template:
        """How an encoder is fed one text or a pair. UserError where there are no tokens for it."""
        names = {role: self.role(role) for role in ("cls", "sep")}
        ids = {role: self.vocabulary.require(role, "a sequence for an encoder") for role in names}
        return pairs.of_processor(pairs.processor(*((names[role], ids[role]) for role in names)))

    def encode_pair(self, first: str, second: str | None = None, max_len: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(ids, types) of one text or of a pair, with the special tokens of an encoder; at most max_len where it is > 0."""
        return self.encode_pairs([first], None if second is None else [second], max_len)[0]

    def encode_pairs(self, first: Sequence[str], second: Sequence[str] | None = None,
                     max_len: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
        """`encode_pair` of each text of `first` with the one of `second` at its place."""
        ids = self.encode_batch(first)
        others = [None] * len(ids) if second is None else self.encode_batch(second)
        return [self.template(a, b, max_len) for a, b in zip(ids, others, strict=True)]

    def piece(self, i: int) -> str:
        """What a listing shows of one id: the text that it stands for, or its name where that is no text of its own (<0xC3>: a byte)."""
        return self.decode([i], special=True)

    def encode(self, text: str) -> np.ndarray:
        """int32 ids of a text."""
        return self.encode_batch([text])[0]

    def stream(self) -> Stream:
        """Text from ids as they come."""
        return Stream(self)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> np.ndarray:
        """int32 ids of a conversation ({"role", "content"} each), to be continued by a reply. UserError without a template."""
        raise UserError("this tokenizer has no chat template: take one that was saved with its template (tokenizer=file), or "
                        "write the prompt as text")

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex digest of the tokenizer's JSON, but for its chat template, which no other text depends on."""
        return digest.of_bytes(self.to_json(chat=False).encode())

    def ids(self, ids: Iterable[int]) -> list[int]:
        """`ids` as Python ints, each checked to be in the vocabulary."""
        ids = [int(i) for i in ids]
        if ids and not (0 <= min(ids) and max(ids) < self.vocab_size):
            raise ValueError(f"token ids must be in [0, {self.vocab_size}), got {min(ids)} to {max(ids)}")
        return ids


class ByteTokenizer(Tokenizer):
    """Id = byte; then eot (256) and further special tokens."""

    def __init__(self, special: Sequence[str] = ()):
        self._names = ("<|endoftext|>", *special)
        self.special = {name: 256 + i for i, name in enumerate(self._names)}
        self.vocab_size, self.eot = 256 + len(self._names), 256

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(_utf8(text), np.uint8).astype(np.int32) for text in texts]

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        return b"".join(self._bytes(i, special) for i in self.ids(ids)).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(self._bytes(i, False) for i in self.ids(ids))

    def _bytes(self, i: int, special: bool) -> bytes:
        return bytes((i,)) if i < 256 else self._names[i - 256].encode() if special else b""

    def piece(self, i: int) -> str:
        return _shown(self._bytes(i, True))

    def token_id(self, token: str) -> int:
        raw = token.encode()
        if token in self.special:
            return self.special[token]
        if len(raw) == 1:
            return raw[0]
        raise UserError(f"the byte tokenizer has no token {token!r} (special tokens: {', '.join(self.special)})")

    def continues(self) -> np.ndarray:
        return words.of_bytes([bytes((i,)) if i < 256 else b"" for i in range(self.vocab_size)])

    def to_json(self, chat: bool = True) -> str:
        return json.dumps({"kind": "byte", "special": self._names[1:]})

    def to_hf_json(self) -> str:
        """Byte-level BPE without merges: the same ids."""
        vocab = {character: byte for byte, character in enumerate(alphabet.characters())}
        made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
        made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = tokenizers.decoders.ByteLevel()
        made.add_special_tokens(list(self._names))
        return made.to_str()


class JsonTokenizer(Tokenizer):
    """A Hugging Face tokenizer.json. `eot`: name of the document separator, "" to find it among the usual names.

    roles: names of the tokens of ROLES, where they are not the usual ones. Padding and truncation stored in the JSON
    are switched off. `where` names it in messages.
    """

    def __init__(self, text: str, eot: str = "", where: str = "the tokenizer", chat: Template | None = None,
                 roles: Mapping[str, str] = MappingProxyType({})):
        self.chat = chat
        try:
            content = json.loads(text)
            content |= {"padding": None, "truncation": None}
            # One spelling of the JSON, so that its digest does not depend on who wrote it or on the library's version.
            self._json = json.dumps(content, sort_keys=True, ensure_ascii=False)
            self._inner = tokenizers.Tokenizer.from_str(self._json)
        except Exception as e:  # the library raises plain Exception
            raise UserError(f"{where} is not a Hugging Face tokenizer.json ({str(e)[:200]}): save it with "
                            "tokenizer.save(path)") from e
        self._inner.encode_special_tokens = True
        added = self._inner.get_added_tokens_decoder()
        self.special = {token.content: i for i, token in sorted(added.items()) if token.special}
        vocab = self._inner.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocab.values(), default=-1) + 1
        way = f"set tokenizer.eot to one of its special tokens ({', '.join(self.special) or 'it has none'})"
        if not eot:
            found = [name for known in (self.special, vocab) for name in SEPARATORS if name in known]
            if not found:
                raise UserError(f"{where} has none of the usual document separators ({', '.join(SEPARATORS)}): {way}")
            eot = found[0]
        if eot not in vocab:
            raise UserError(f"{where} has no token {eot!r}{nearest(eot, self.special)}: {way}")
        self.eot_name, self.eot = eot, vocab[eot]
        for role, name in roles.items():
            if name not in vocab:
                raise UserError(f"{where} has no token {name!r}{nearest(name, self.special)} to be the {role} token: set "
                                f"tokenizer.{role} to a name that it has")
            self.special[name] = vocab[name]
        self.roles = {role: name for role, name in roles.items() if name != usual(role, self.special)}
        model = content["model"]
        unknown = model.get("unk_token")
        if model.get("unk_id") is not None:  # Unigram
            unknown = model["vocab"][model["unk_id"]][0]
        self.unknown = unknown
        self._forbidden = np.zeros(self.vocab_size, bool)
        self._forbidden[[i for name, i in self.special.items() if name != unknown]] = True
        self._forbidden[self.eot] = True
        decoder = content.get("decoder") or {}
        if decoder.get("type") == "Sequence" and len(decoder["decoders"]) == 1:
            decoder = decoder["decoders"][0]
        self.byte_level = decoder.get("type") == "ByteLevel"
        fallback = {f"<0x{i:02X}>" for i in range(256)} if '"ByteFallback"' in json.dumps(decoder) else ()
        self.bytes = frozenset(vocab[name] for name in fallback if name in vocab)
        self._special_ids = {*self.special.values(), self.eot}
        self._added = {i: token.content for i, token in added.items()}
        self._processor = content.get("post_processor")

    @functools.cached_property
    def template(self) -> pairs.Template:
        return self.own_template or super().template

    @functools.cached_property
    def own_template(self) -> pairs.Template | None:
        return pairs.of_processor(self._processor)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        for text in texts:
            _utf8(text)
        found = [np.array(e.ids, np.int32)
                 for e in self._inner.encode_batch_fast(list(texts), add_special_tokens=False)]
        return [self._spelled(text) if self._forbidden[ids].any() else ids for text, ids in zip(texts, found)]

    def _spelled(self, text: str) -> np.ndarray:
        """Ids of a text in which the model itself (Unigram, WordLevel) knows the name of a special token as a word.

        Each such name is cut after its first character, so that it is spelled from ordinary pieces.
        """
        names = [*self.special, self.eot_name]
        pieces = [text]
        for name in sorted(names, key=len, reverse=True):
            pieces = [p for piece in pieces for p in _cut(piece, name)]
        ids = np.concatenate([np.array(e.ids, np.int32)
                              for e in self._inner.encode_batch_fast(pieces, add_special_tokens=False)])
        if self._forbidden[ids].any():
            token = self._inner.id_to_token(int(ids[self._forbidden[ids]][0]))
            raise UserError(f"this tokenizer turns plain text into the special token {token!r}, and cannot spell it: "
                            "take that text out of the data, or use another tokenizer")
        return ids

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        ids = self.ids(ids)
        if self.byte_level:
            return b"".join(self._bytes(i, special) for i in ids).decode("utf-8", "replace")
        return self._inner.decode(ids if special else [i for i in ids if i not in self._special_ids],
                                  skip_special_tokens=not special)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        if self.byte_level:
            return b"".join(self._bytes(i, False) for i in self.ids(ids))
        return self.decode(ids).encode("utf-8", "replace")

    def _bytes(self, i: int, special: bool) -> bytes:
        """Bytes of one id of a byte-level tokenizer; an id without a token (a hole in the vocabulary) has none."""
        if i in self._special_ids and not special:
            return b""
        token = self._added.get(i)
        if token is not None:
            return token.encode()
        table, token = alphabet.values(), self._inner.id_to_token(i) or ""
        # As the library does: a token with other characters than the alphabet's stands for itself.
        return bytes(table[c] for c in token) if all(c in table for c in token) else token.encode()

    def piece(self, i: int) -> str:
        return _shown(self._bytes(i, True)) if self.byte_level else self._inner.id_to_token(i) or ""

    def token_id(self, token: str) -> int:
        found = self._inner.token_to_id(token)
        if found is None:
            raise UserError(f"the tokenizer has no token {token!r}{nearest(token, self.special)} (special tokens: "
                            f"{', '.join(self.special) or 'none'})")
        return found

    def continues(self) -> np.ndarray | None:
        if self.byte_level:
            return words.of_bytes([self._bytes(i, False) for i in range(self.vocab_size)])
        names = ["" if i in self._special_ids else self._inner.id_to_token(i) or "" for i in range(self.vocab_size)]
        return words.of_pieces(names, json.loads(self._json))

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> np.ndarray:
        if self.chat is None:
            return super().encode_chat(messages)
        for message in messages:
            # The template's special tokens are tokens, so one in a message could end it and speak as another.
            for name in (*self.special, self.eot_name):
                if name in message["content"]:
                    raise UserError(f"a message holds {name!r}, a special token of this tokenizer: take it out")
        text = self.chat.render(messages)
        _utf8(text)
        self._inner.encode_special_tokens = False
        try:
            return np.array(self._inner.encode(text, add_special_tokens=False).ids, np.int32)
        finally:
            self._inner.encode_special_tokens = True

    def to_json(self, chat: bool = True) -> str:
        content = {"kind": "json", "eot": self.eot_name, **({"roles": self.roles} if self.roles else {}), "tokenizer": self._json}
        if chat and self.chat is not None:
            content["chat"] = {"source": self.chat.source, "names": dict(self.chat.names)}
        return json.dumps(content, ensure_ascii=False)

    def to_hf_json(self) -> str:
        return self._json


def from_json(text: str) -> Tokenizer:
    """The tokenizer that `to_json` wrote. Raises UserError."""
    try:
        content = json.loads(text)
        kind = content["kind"]
        if kind == "byte":
            return ByteTokenizer(content["special"])
        if kind == "json":
            chat = Template(**content["chat"]) if "chat" in content else None
            return JsonTokenizer(content["tokenizer"], content["eot"], chat=chat, roles=content.get("roles", {}))
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        if isinstance(e, UserError):
            raise
        raise UserError(f"the stored tokenizer is damaged ({e!r}): restore the checkpoint from a copy") from e
    raise UserError(f"the stored tokenizer is of an unknown kind {kind!r}: it was written by a newer version of jaxlm")


def _shown(raw: bytes) -> str:
    """Bytes as text, or one by one where they are a part of a character."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(chr(b) if b < 128 else f"<0x{b:02X}>" for b in raw)


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise UserError(f"the text holds half of a surrogate pair at character {e.start}: it is not Unicode") from e


def _cut(text: str, name: str) -> list[str]:
    """`text` in pieces, cut after the first character of every `name` in it."""
    first, *rest = text.split(name)
    pieces = [first]
    for part in rest:
        pieces[-1] += name[0]
        pieces.append(name[1:] + part)
    return [p for p in pieces if p]
