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
.PHONY: all build demo test test-kvm test-files test-programs test-kvm-native test-big test-many test-load test-quick check-speed check-speed-accept examples soak fuzz
.PHONY: bench bench-setup bench-draw bench-run bench-timeline bench-copies bench-kvm bench-scale bench-images bench-memory bench-density
.PHONY: images kernel kernel-twice kernels man install fmt clippy doc clean help

all: build

build: ## compile rdvm
	$(CARGO) build --release

demo: ## install what is missing, build, run both images in a chroot and in rdvm
	scripts/install-deps.sh demo
	$(CARGO) build --release
	scripts/make-images.sh $(images) libs debian
	RDVM=$(rdvm) scripts/demo.sh $(images)

# The network has the one core, the compiler the other; and many tests sleep.
test: ## install what is missing, run every test
	scripts/install-deps.sh test
	$(MAKE) -j2 test-files test-programs
	$(CARGO) run --quiet -- kernel build
	RUST_TEST_THREADS=$$(($$(nproc) + 1)) RDVM_TEST_IMAGES=$(images) RDVM_TEST_KERNELS=$(kernels) \
		$(CARGO) test --workspace --no-fail-fast
	RDVM_TEST_IMAGES=$(images) RDVM_TEST_KERNELS=$(kernels) scripts/rig.sh test

test-files:
	scripts/make-images.sh $(images)
	scripts/get-kernels.sh $(kernels)

test-programs:
	$(CARGO) test --workspace --no-run

test-kvm: ## the scenarios on KVM, in a machine with emulated SVM; T=NAME picks some
	scripts/install-deps.sh test
	scripts/make-images.sh $(images) libs debian
	scripts/get-kernels.sh $(kernels)
	$(CARGO) run --quiet -- kernel build
	RDVM_TEST_IMAGES=$(images) RDVM_TEST_KERNELS=$(kernels) scripts/rig.sh test $(T)

examples: build ## run every example; half an hour without KVM
	scripts/install-deps.sh examples
	RDVM=$(rdvm) examples/untrusted-build/run
	RDVM=$(rdvm) examples/grading/run
	RDVM=$(rdvm) examples/integrations/run
	RDVM=$(rdvm) examples/debootstrap/run
	RDVM=$(rdvm) examples/debian-package/run

test-big: ## an initrd of two GiB on KVM, some minutes
	RDVM_TEST_BIG=1 RIG_MEMORY=9g RIG_LIMIT=1800s RIG_PATIENCE=1500 OUTERS=1 $(MAKE) test-kvm T=an_initrd_of_two

test-many: ## two hundred machines of one image at once, or RDVM_MANY, as far as the memory goes
	RDVM_MANY=$(or $(RDVM_MANY),200) $(CARGO) test --release --test it -- --nocapture many::

test-load: ## two hundred emulated machines, or RDVM_LOAD, one after the other beside six busy loops: each boots, and sleeps end in time
	RDVM_LOAD=$(or $(RDVM_LOAD),200) RDVM_TEST_KERNELS=$(kernels) $(CARGO) test --release --test it -- --nocapture load::sleeps

test-kvm-native: ## the same on this host's own KVM, where it is real; T=NAME picks some
	RDVM_TEST_IMAGES=$(images) scripts/rig.sh native $(T)

soak: ## a million exits of a fuzzed guest, and a hundred thousand random archives against GNU tar; some hours
	RDVM_SOAK_EXITS=1000000 $(CARGO) test --release --test it stubs::a_guest_that_does_anything
	RDVM_SOAK_ARCHIVES=100000 PROPTEST_CASES=10000 $(CARGO) test --release --lib image::
	RDVM_TEST_FIXTURES=10000 $(CARGO) test --release --test it differential::

check-speed: ## what starting costs, in counted instructions, exits, calls, bytes, against benches/results/counts.tsv
	scripts/rig.sh check

check-speed-accept: ## take what is counted now as the new benches/results/counts.tsv
	scripts/rig.sh accept
	$(MAKE) bench-draw

test-quick: ## the unit tests alone: no machine is booted, nothing is installed
	$(CARGO) test --workspace --lib

fuzz: ## feed damaged kernels to the check for FUZZ_SECONDS, 60 by default; wants a nightly toolchain
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
	TMPDIR=/dev/shm IMAGES=$(images) RDVM=$(rdvm) scripts/bench.sh

bench-timeline: bench-setup ## where the time of a run in QEMU goes, and how fast bytes go in and out there
	IMAGES=$(images) RDVM=$(rdvm) scripts/bench-timeline.sh

bench-kvm: bench-setup ## rdvm and QEMU on KVM, in counted instructions: starts, phases, bytes in and out
	scripts/rig.sh bench
	RDVM_TEST_IMAGES=$(images) scripts/rig.sh timeline
	scripts/rig.sh ports

bench-scale: bench-setup ## packing and running from 1,000 to a million files and from 16 MiB to 2 GiB; ten minutes
	RDVM=$(rdvm) scripts/bench-scale.sh

bench-images: bench-setup ## compare reading archives with skopeo, umoci, tar and cpio, side by side; as root
	RDVM=$(rdvm) scripts/bench-images.sh

bench-copies: bench-setup ## files in and out, standard input, Ctrl-C: side by side, some minutes
	RDVM=$(rdvm) scripts/bench-copies.sh $(images)

bench-memory: bench-setup ## compare planned with least RAM by bisection, with both kernels; about twenty minutes
	IMAGES=$(images) scripts/bench-memory.sh ram

bench-density: bench-setup ## memory of many machines at once, and how many start in a second
	IMAGES=$(images) RDVM=$(rdvm) scripts/bench-memory.sh density

bench-draw: ## make docs/performance.md and its pictures of what benches/results holds
	$(CARGO) run --quiet -p figures

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

fmt: ## format the sources
	$(CARGO) fmt --all

clippy: ## lint, warnings are errors
	$(CARGO) clippy --workspace --all-targets -- -D warnings

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
