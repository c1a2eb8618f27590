# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Tests of jaxlm.generate."""
