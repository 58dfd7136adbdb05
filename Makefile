# Every target is one or two commands that can be typed as well; `make help` lists them.

CARGO  ?= cargo
PREFIX ?= /usr/local

target := $(abspath $(or $(CARGO_TARGET_DIR),target))
images := $(abspath target/images)
rdvm   := $(target)/release/rdvm
man    := $(target)/man

# rustup's place, for a shell that was open when it was installed.
export PATH := $(PATH):$(HOME)/.cargo/bin

.DEFAULT_GOAL := all
.PHONY: all build demo test test-kvm test-kvm-native test-quick check-speed bench bench-kvm bench-memory images man install fmt clippy doc clean help

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
	RDVM_TEST_IMAGES=$(images) $(CARGO) test --workspace --no-fail-fast
	RDVM_TEST_IMAGES=$(images) scripts/rig.sh test

test-kvm: ## the scenarios on KVM, in a machine with emulated SVM; T=NAME picks some
	scripts/install-deps.sh test
	scripts/make-images.sh $(images)
	RDVM_TEST_IMAGES=$(images) scripts/rig.sh test $(T)

test-kvm-native: ## the same on this host's own KVM, where it is real; T=NAME picks some
	RDVM_TEST_IMAGES=$(images) scripts/rig.sh native $(T)

check-speed: ## the KVM engine's speed against benches/kvm.tsv, in counted instructions
	scripts/rig.sh check

test-quick: ## the unit tests alone: no machine is booted, nothing is installed
	$(CARGO) test --workspace --lib

bench: build ## compare packing and whole runs with the usual tools, side by side
	scripts/install-deps.sh test
	scripts/make-images.sh $(images)
	RDVM=$(rdvm) scripts/bench.sh $(images)
	scripts/rig.sh bench

bench-kvm: ## compare rdvm and QEMU on KVM, in counted instructions
	scripts/install-deps.sh test
	scripts/rig.sh bench

bench-memory: ## compare planned with least RAM by bisection, about ten minutes
	scripts/install-deps.sh test
	scripts/make-images.sh $(images)
	RDVM_TEST_IMAGES=$(images) $(CARGO) bench --bench memory

images: ## make the two images of the demo below target/images
	scripts/make-images.sh $(images)

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

clean: ## remove what was compiled, and the images
	$(CARGO) clean
	rm -rf --one-file-system $(images)

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 17
