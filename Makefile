# Every target is one or two commands that can be typed as well; `make help` lists them.

CARGO  ?= cargo
PREFIX ?= /usr/local

target := $(abspath $(or $(CARGO_TARGET_DIR),target))
images := $(abspath target/images)
kernels := $(abspath target/kernels)
rdvm   := $(target)/release/rdvm
man    := $(target)/man

# rustup's place, for a shell that was open when it was installed.
export PATH := $(PATH):$(HOME)/.cargo/bin

.DEFAULT_GOAL := all
.PHONY: all build demo test test-setup test-files test-programs test-unit test-scenarios test-rig test-vmx-short test-quick
.PHONY: test-engines test-engines-setup test-kvm test-kvm-setup test-vmx test-kvm-native test-big test-many test-root test-load
.PHONY: check-speed check-speed-setup check-speed-accept examples soak fuzz lint fmt-check shellcheck
.PHONY: bench bench-setup bench-draw bench-run bench-timeline bench-copies bench-kvm bench-scale bench-images bench-memory bench-density bench-engines
.PHONY: images kernel kernel-twice kernels man install fmt clippy doc clean help

all: build

build: ## compile rdvm
	$(CARGO) build --release

demo: ## install what is missing, build, run both images in a chroot and in rdvm
	scripts/install-deps.sh demo
	$(CARGO) build --release
	scripts/make-images.sh $(images) libs debian
	RDVM=$(rdvm) scripts/demo.sh $(images)

# The parts that .ci/run calls one by one; each makes what it needs, and finds it made the next time.
test test-quick test-unit test-scenarios test-rig test-vmx-short: export RDVM_TEST_IMAGES := $(images)
test test-quick test-unit test-scenarios test-rig test-vmx-short: export RDVM_TEST_KERNELS := $(kernels)
test test-quick test-unit test-scenarios test-rig test-vmx-short: export RDVM_TEST_SKIPS := $(target)/skips
test: ## install what is missing, run every test, list what was left out
	@rm -f $$RDVM_TEST_SKIPS; trap scripts/list-skips.sh EXIT; set -ex; \
	$(MAKE) test-unit; \
	$(MAKE) test-scenarios; \
	$(MAKE) test-rig; \
	$(MAKE) test-vmx-short

test-unit: test-programs ## the unit tests and the documentation's, a part of make test
	$(CARGO) test --workspace --no-fail-fast --lib --bins
	$(CARGO) test --workspace --no-fail-fast --doc

test-scenarios: test-setup ## the scenarios on QEMU, or on real KVM too, a part of make test; many sleep
	RUST_TEST_THREADS=$$(($$(nproc) + 2)) $(CARGO) test --workspace --no-fail-fast --test it

test-rig: test-setup ## the scenarios on KVM in the rig, a part of make test
	$(CARGO) xtask rig test

test-vmx-short: test-setup ## four runs on emulated VT-x, a part of make test
	$(CARGO) xtask rig vmx

# The network has the one core, the compiler the other. The kernel is built by the rdvm that the tests run: `cargo run` would
# compile another, without the features that the tests' own dependencies ask of shared crates.
test-setup:
	scripts/install-deps.sh test
	$(MAKE) -j2 test-files test-programs
	$(target)/debug/rdvm kernel build

test-files:
	scripts/make-images.sh $(images)
	scripts/get-kernels.sh $(kernels)

test-programs:
	scripts/install-deps.sh test
	$(CARGO) test --workspace --no-run

test-kvm: test-kvm-setup ## the scenarios on KVM, in a machine with emulated SVM; T=NAME picks some
	RIG_ALL=1 RDVM_TEST_IMAGES=$(images) RDVM_TEST_KERNELS=$(kernels) $(CARGO) xtask rig test $(T)

# The test program alone, with the features of the whole workspace.
test-kvm-setup:
	scripts/install-deps.sh test
	scripts/make-images.sh $(images) libs debian
	scripts/get-kernels.sh $(kernels)
	$(CARGO) test --workspace --no-run --test it
	$(target)/debug/rdvm kernel build

examples: build ## run every example; half an hour without KVM
	scripts/install-deps.sh examples
	RDVM=$(rdvm) examples/untrusted-build/run
	RDVM=$(rdvm) examples/grading/run
	RDVM=$(rdvm) examples/integrations/run
	RDVM=$(rdvm) examples/debootstrap/run
	RDVM=$(rdvm) examples/debian-package/run

test-vmx: test-kvm-setup ## the scenarios on KVM with emulated VT-x, in Bochs, built first; about 20 minutes; T=NAME picks some
	scripts/install-deps.sh vmx
	RDVM_TEST_IMAGES=$(images) RDVM_TEST_KERNELS=$(kernels) $(CARGO) xtask rig test-vmx $(T)

# The test program alone, as root, in namespaces of its own; then with the host's own control groups, which may be of version 1.
engines := CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$(abspath tests/engines/enter.sh)
test-engines: test-engines-setup ## rdvm as the runtime of podman, containerd, docker and Slurm; as root; T=NAME picks some
	$(engines) $(CARGO) test --workspace --test engines -- $(T)
	$(if $(T),,$(engines) RDVM_ENGINES_CGROUP=host $(CARGO) test --workspace --test engines -- containerd:: pause)

test-engines-setup:
	scripts/install-deps.sh engines
	$(CARGO) test --workspace --no-run --test engines
	$(target)/debug/rdvm kernel build

test-big: ## an initrd of two GiB on KVM, some minutes
	RDVM_TEST_BIG=1 RIG_MEMORY=9g RIG_LIMIT=1800s RIG_PATIENCE=1500 OUTERS=1 $(MAKE) test-kvm T=an_initrd_of_two

test-many: ## two hundred machines of one image at once, or RDVM_MANY, as far as the memory goes
	RDVM_MANY=$(or $(RDVM_MANY),200) $(CARGO) test --release --test it -- --nocapture many::

test-root: ## full root file systems with every kernel, RAM, CPUs and huge pages, and large scratch space; hours
	RDVM_TEST_LONG=1 RDVM_TEST_IMAGES=$(images) RDVM_TEST_KERNELS=$(kernels) $(CARGO) test --release --test it -- --nocapture root:: scratch::

test-load: ## two hundred emulated machines, or RDVM_LOAD, one after the other beside six busy loops: each boots, and sleeps end in time
	RDVM_LOAD=$(or $(RDVM_LOAD),200) RDVM_TEST_KERNELS=$(kernels) $(CARGO) test --release --test it -- --nocapture load::

test-kvm-native: ## the same on this host's own KVM, where it is real; T=NAME picks some
	RDVM_TEST_IMAGES=$(images) $(CARGO) xtask rig native $(T)

soak: ## a million exits of a fuzzed guest, and a hundred thousand random archives against GNU tar; some hours
	RDVM_SOAK_EXITS=1000000 $(CARGO) test --release --test it stubs::a_guest_that_does_anything
	RDVM_SOAK_ARCHIVES=100000 PROPTEST_CASES=10000 $(CARGO) test --release --lib image::
	RDVM_TEST_FIXTURES=10000 $(CARGO) test --release --test it differential::

check-speed: check-speed-setup ## what starting costs, in counted instructions, exits, calls, bytes, against benches/results/counts.tsv
	$(CARGO) xtask rig check

check-speed-accept: check-speed-setup ## take what is counted now as the new benches/results/counts.tsv
	$(CARGO) xtask rig accept
	$(MAKE) bench-draw

# With the build that is measured, so that no other is needed.
check-speed-setup:
	scripts/install-deps.sh test
	$(CARGO) build --release
	$(rdvm) kernel build

test-quick: ## the unit tests alone: no machine is booted, nothing is installed
	@rm -f $$RDVM_TEST_SKIPS; trap scripts/list-skips.sh EXIT; set -ex; $(CARGO) test --workspace --lib

fuzz: ## feed damaged kernels, archives and bytes of the network to their readers for FUZZ_SECONDS each, 60 by default; wants a nightly toolchain
	fuzz/run.sh $(FUZZ_SECONDS)

# Each part leaves its tables in benches/results, so that one can be measured again alone.
bench: bench-setup ## measure everything and make docs/performance.md of it; three quarters of an hour, on a machine that does nothing else
	$(MAKE) bench-run bench-timeline bench-copies bench-kvm bench-scale bench-density bench-memory
	if [ "$$(id -u)" = 0 ]; then $(MAKE) bench-images; else echo 'bench: SKIPPED bench-images, which only root can run'; fi
	$(MAKE) bench-draw

bench-setup: build
	scripts/install-deps.sh test
	scripts/make-images.sh $(images) libs debian
	$(rdvm) kernel build

bench-run: bench-setup ## compare packing and whole runs with the usual tools, side by side
	TMPDIR=/dev/shm IMAGES=$(images) RDVM=$(rdvm) $(CARGO) xtask bench run

bench-timeline: bench-setup ## where the time of a run in QEMU goes, and how fast bytes go in and out there
	IMAGES=$(images) RDVM=$(rdvm) $(CARGO) xtask bench timeline

bench-kvm: bench-setup ## rdvm and QEMU on KVM, in counted instructions: starts, phases, bytes in and out
	$(CARGO) xtask rig bench
	RDVM_TEST_IMAGES=$(images) $(CARGO) xtask rig timeline
	$(CARGO) xtask rig ports

bench-scale: bench-setup ## packing and running from 1,000 to a million files and from 16 MiB to 2 GiB; ten minutes
	RDVM=$(rdvm) $(CARGO) xtask bench scale

bench-images: bench-setup ## compare reading archives with skopeo, umoci, tar and cpio, side by side; as root
	RDVM=$(rdvm) $(CARGO) xtask bench images

bench-copies: bench-setup ## files in and out, standard input, Ctrl-C: side by side, some minutes
	IMAGES=$(images) RDVM=$(rdvm) $(CARGO) xtask bench copies

bench-memory: bench-setup ## compare planned with least RAM by bisection, with both kernels; about twenty minutes
	IMAGES=$(images) $(CARGO) xtask bench memory

bench-density: bench-setup ## memory of many machines at once, and how many start in a second
	IMAGES=$(images) RDVM=$(rdvm) $(CARGO) xtask bench density

# Not a part of bench, since it installs container engines. runsc takes part where it is installed.
bench-engines: build test-engines-setup ## create to exit of true in podman and ctr, with rdvm, runc and runsc; as root
	RDVM_ENGINES_CGROUP=host tests/engines/enter.sh tests/engines/measure.sh $(rdvm) >benches/results/engines.tsv.new
	mv benches/results/engines.tsv.new benches/results/engines.tsv

bench-draw: ## make docs/performance.md and its pictures of what benches/results holds
	$(CARGO) xtask figures

images: ## make the images of the demo and of the tests below target/images
	scripts/make-images.sh $(images)

kernels: ## fetch the kernels that the tests boot into target/kernels
	scripts/get-kernels.sh $(kernels)

kernel: ## build the small kernel, some minutes, once
	scripts/install-deps.sh test
	$(CARGO) build --release
	$(rdvm) kernel build

kernel-twice: ## build the small kernel twice under other circumstances, compare the bytes; a quarter of an hour
	scripts/install-deps.sh test
	$(CARGO) build --release
	RDVM=$(rdvm) scripts/kernel-twice.sh

man: ## write the man pages to target/man
	mkdir -p $(man)
	$(CARGO) run --quiet --release --example man -- $(man)

lint: fmt-check clippy doc shellcheck ## what can be said of the sources without running them

fmt-check:
	$(CARGO) fmt --all --check

shellcheck: ## look through the shell scripts
	scripts/install-deps.sh test
	shellcheck -x .ci/run scripts/*.sh tests/rig/*.sh tests/engines/*.sh examples/*/run examples/engines/slurm/grade-*

fmt: ## format the sources
	$(CARGO) fmt --all

# --all-targets leaves out tests that an ordinary run leaves out.
clippy: ## lint, warnings are errors
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --workspace --test engines -- -D warnings

doc: ## the documentation of the code, warnings are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --workspace

# Compiles nothing, so that it can run as root after `make build man`.
install: ## copy program, man pages and completions below $(DESTDIR)$(PREFIX)
	@test -x $(rdvm) && test -d $(man) || { echo "install: run 'make build man' first" >&2; exit 1; }
	install -D -m 755 $(rdvm) $(DESTDIR)$(PREFIX)/bin/rdvm
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man1 $(man)/*.1
	for at in bash:bash-completion/completions/rdvm zsh:zsh/site-functions/_rdvm fish:fish/vendor_completions.d/rdvm.fish; do \
		file=$(DESTDIR)$(PREFIX)/share/$${at#*:} && mkdir -p "$${file%/*}" && \
		$(rdvm) completions $${at%%:*} >"$$file" || exit 1; \
	done

clean: ## remove what was compiled, the images and the kernels
	$(CARGO) clean
	rm -rf --one-file-system $(images) $(kernels)

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20
