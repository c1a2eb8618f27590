# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Side-by-side measurements: contenders in processes of their own, interleaved, on the same weights and tokens. Never imported by jaxlm.

python -m benchmarks.SUITE [--shape=...] [--contenders=...] [--rounds=3] [--out=FILE] with SUITE one of train, decode, input, checkpoint,
compile, memory, growth; python -m benchmarks.report FILE... shows what a file holds. A contender is NAME or NAME@PYTHON, to run under
another interpreter: --contenders=jaxlm,jaxlm@/path/of/another/python,torch_eager. python -m benchmarks.speculative is about trained runs:
what a draft model is worth.

On one GPU, four commands of less than ten minutes each (not run yet: no GPU was there when this was written):

python -m benchmarks.train --platform=gpu --shape=llama_1b3_gpu --rounds=2 --out=benchmarks/results/gpu_train_1b3.json
python -m benchmarks.train --platform=gpu --shape=gpt2_124m_gpu --rounds=2 --out=benchmarks/results/gpu_train_124m.json
python -m benchmarks.train --platform=gpu --shape=llama2_7b_gpu --rounds=2 --out=benchmarks/results/gpu_train_7b.json (141 GB)
python -m benchmarks.decode --platform=gpu --rounds=2 --rows=1,32 --out=benchmarks/results/gpu_decode.json
"""
