# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm: language models in JAX and Flax, from text to a served model, on one laptop or a pod."""
__version__ = "0.1.0"
