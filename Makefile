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
.PHONY: all build demo test test-kvm test-kvm-native test-big test-many test-quick check-speed examples soak fuzz
.PHONY: bench bench-density bench-copies bench-kvm bench-images bench-memory
.PHONY: images kernel kernels man install fmt clippy doc clean help

all: build

build: ## compile rdvm
	$(CARGO) build --release

demo: ## install what is missing, build, run both images in a chroot and in rdvm
	scripts/install-deps.sh demo
	$(CARGO) build --release
	scripts/make-images.sh $(images)
	RDVM=$(rdvm) scripts/demo.sh $(images)

test: ## install what is missing, run every test
	scripts/install-deps.sh test
	scripts/make-images.sh $(images)
	scripts/get-kernels.sh $(kernels)
	$(CARGO) run --quiet -- kernel build
	RDVM_TEST_IMAGES=$(images) RDVM_TEST_KERNELS=$(kernels) $(CARGO) test --workspace --no-fail-fast
	RDVM_TEST_IMAGES=$(images) RDVM_TEST_KERNELS=$(kernels) scripts/rig.sh test

test-kvm: ## the scenarios on KVM, in a machine with emulated SVM; T=NAME picks some
	scripts/install-deps.sh test
	scripts/make-images.sh $(images)
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

test-kvm-native: ## the same on this host's own KVM, where it is real; T=NAME picks some
	RDVM_TEST_IMAGES=$(images) scripts/rig.sh native $(T)

soak: ## a million exits of a fuzzed guest, and a hundred thousand random archives against GNU tar; some hours
	RDVM_SOAK_EXITS=1000000 $(CARGO) test --release --test it stubs::a_guest_that_does_anything
	RDVM_SOAK_ARCHIVES=100000 PROPTEST_CASES=10000 $(CARGO) test --release --lib image::
	RDVM_TEST_FIXTURES=10000 $(CARGO) test --release --test it differential::

check-speed: ## the KVM engine's speed against benches/kvm.tsv, in counted instructions
	scripts/rig.sh check

test-quick: ## the unit tests alone: no machine is booted, nothing is installed
	$(CARGO) test --workspace --lib

fuzz: ## feed damaged kernels to the check for FUZZ_SECONDS, 60 by default; wants a nightly toolchain
	fuzz/run.sh $(FUZZ_SECONDS)

bench: build ## compare packing and whole runs with the usual tools, side by side
	scripts/install-deps.sh test
	scripts/make-images.sh $(images)
	RDVM=$(rdvm) scripts/bench.sh $(images)
	scripts/rig.sh bench

bench-kvm: ## compare rdvm and QEMU on KVM, in counted instructions
	scripts/install-deps.sh test
	scripts/rig.sh bench

bench-images: build ## compare reading archives with skopeo, umoci, tar and cpio, side by side; as root
	scripts/install-deps.sh test
	RDVM=$(rdvm) scripts/bench-images.sh

bench-copies: build ## files in and out, standard input, Ctrl-C: side by side, some minutes
	scripts/install-deps.sh test
	scripts/make-images.sh $(images)
	RDVM=$(rdvm) scripts/bench-copies.sh $(images)

bench-memory: ## compare planned with least RAM by bisection, about ten minutes
	scripts/install-deps.sh test
	scripts/make-images.sh $(images)
	RDVM_TEST_IMAGES=$(images) $(CARGO) bench --bench memory

bench-density: build ## memory for each further machine, machines started in a second, some minutes
	scripts/install-deps.sh test
	scripts/make-images.sh $(images)
	RDVM=$(rdvm) scripts/bench-density.sh $(images)

images: ## make the two images of the demo below target/images
	scripts/make-images.sh $(images)

kernels: ## fetch the kernels that the tests boot into target/kernels
	scripts/get-kernels.sh $(kernels)

kernel: ## build the small kernel, some minutes, once
	scripts/install-deps.sh test
	$(CARGO) build --release
	$(rdvm) kernel build

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
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 17
