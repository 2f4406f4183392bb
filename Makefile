# The two commands of the README, and what CI runs. Each makes its own .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check wheel mini mini-smoke clean

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev,mock,distributed,maps]'
	touch $@

demo: .venv/.installed
	$(BIN)/astroclip demo demo --overwrite

test: .venv/.installed
	$(BIN)/python -m pytest

check: .venv/.installed wheel
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A wheel, installed with its own dependencies into an environment that sees nothing of this folder.
wheel: .venv/.installed
	rm -rf build dist .wheel-venv
	$(BIN)/python -m build --wheel --outdir dist . >/dev/null
	$(PYTHON) -m venv .wheel-venv
	.wheel-venv/bin/pip install --quiet dist/*.whl
	cd dist && ../.wheel-venv/bin/astroclip --version && ../.wheel-venv/bin/astroclip --help >/dev/null
	cd dist && ../.wheel-venv/bin/astroclip --json models info mini >/dev/null
	rm -rf .wheel-venv

# The model that ships, from nothing: two hours on 2 cores, 55 GB of disk; a run that was stopped goes on.
MINI := mini
GALAXIES := 48000
RECIPE :=
STEPS := 750
SHIP := astroclip/model/mini
LABELS := Z,MAG_G,MAG_R,MAG_Z,LOG_MSTAR,Z_MW,TAGE_MW,AVG_SFR,*_total-votes,*_debiased

mini: $(MINI)/clip/reference.safetensors
	$(BIN)/python benchmarks/mini.py $(MINI)/pairs-embedded.fits $(MINI)/sky/truth.fits --model $(MINI)/clip --card
	mkdir -p $(SHIP)
	cp $(addprefix $(MINI)/clip/,model.safetensors config.yaml README.md reference.safetensors) $(SHIP)

$(MINI)/sky/truth.fits: | .venv/.installed
	$(BIN)/astroclip mock $(@D) --galaxies $(GALAXIES) --seed 1 --overwrite

$(MINI)/pairs.h5: $(MINI)/sky/truth.fits
	$(BIN)/astroclip crossmatch $(<D)/zcatalog/zall-pix-mock.fits $(<D)/south -o $(basename $@) --overwrite \
		--fractions 0.72 0.18 0.1 \
		--labels $(<D)/BGS_ANY_full.provabgs.sv3.v0.hdf5 --labels $(<D)/gz_decals_volunteers_5.csv

$(MINI)/begun/model.safetensors: $(MINI)/pairs.h5
	$(BIN)/astroclip train clip $< -o $(@D) -c mini-clip --resume $(RECIPE)

# then with spectra that are shifted farther, and of which little more than lines is left
$(MINI)/clip/model.safetensors: $(MINI)/begun/model.safetensors
	$(BIN)/astroclip train clip $(MINI)/pairs.h5 -o $(@D) -c mini-clip --resume image=$(<D) spectrum=$(<D) \
		optim.lr=1e-3 optim.warmup_steps=50 optim.decay_steps=$(STEPS) run.steps=$(STEPS) \
		guide.shifted=1 guide.shift=0.3 guide.dimmed=0.97 $(RECIPE)

$(MINI)/pairs-embedded.fits: $(MINI)/clip/model.safetensors
	$(BIN)/astroclip embed $(MINI)/pairs.fits --model $(<D) --images $(MINI)/pairs.h5 --spectra $(MINI)/pairs.h5 \
		-o $@ --overwrite

$(MINI)/clip/reference.safetensors: $(MINI)/pairs-embedded.fits
	$(BIN)/astroclip models reference $< --model $(@D) --where "SPLIT == 1" --columns "$(LABELS)" --overwrite

# The same in small, for CI.
mini-smoke:
	rm -rf .mini-smoke
	$(MAKE) mini MINI=.mini-smoke GALAXIES=400 SHIP=.mini-smoke/shipped RECIPE="run.steps=20 \
		optim.warmup_steps=5 optim.decay_steps=20 data.batch_size=16 run.val_every=10 run.val_batches=2"

clean:
	rm -rf .venv .mini-smoke .wheel-venv build dist demo *.egg-info
