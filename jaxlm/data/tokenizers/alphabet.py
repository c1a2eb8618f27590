# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The characters that stand for bytes in byte-level vocabularies."""
import functools


@functools.cache
def characters() -> str:
    """Character that stands for each byte: printable Latin-1 as it is, the rest from U+0100.

    Source: bytes_to_unicode of GPT-2 (github.com/openai/gpt-2, src/encoder.py).
    """
    kept = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    shifted = iter(range(256, 512))
    return "".join(chr(b) if b in kept else chr(next(shifted)) for b in range(256))


@functools.cache
def values() -> dict[str, int]:
    """Byte that each character stands for."""
    return {character: byte for byte, character in enumerate(characters())}
