# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Side-by-side measurements: contenders in processes of their own, interleaved, on the same weights and tokens. Never imported by jaxlm."""
