# make run      builds, and runs a container on a copy-on-write view of this machine's root
# make test     installs what the tests need, builds, runs all tests (as root)
# make soak     puts hundreds of containers under random verbs from many shells, and kills supervisors and tools at random, for
#               SOAK_SECONDS (600), as root
# make guest    gives a shell in the tests' virtual machine, which has cgroup v2 and the programs (Ctrl-A x ends it)
# make bench    compares the start of a container with bwrap, crun, runc, podman and docker (as root)
# make bench-life    compares the verbs of a container's life, lists, logs and supervisors with podman and docker (as root)
# make bench-net     compares attaching containers to a network with ip and the stock CNI plugin bridge (as root)
# make bench-ports   compares published ports with docker's, with nftables DNAT by hand and with no NAT (as root)
# make bench-images  compares pull, push, save and commit with docker, containerd, podman, buildah, skopeo and umoci, those of
#               Debian trixie too (as root; the first time it makes images, for a few minutes and 1.7 GB, in BENCH_FIXTURES)
# make install  puts the programs into $(DESTDIR)$(PREFIX)/bin, and a unit for systemd; make uninstall removes them

PREFIX ?= /usr/local
# Where systemd looks for units, in /usr/local too (systemd.unit(5)).
UNITS = lib/systemd/system
CARGO ?= cargo
# More options for cargo: --locked, --offline.
CARGOFLAGS ?=

PROGRAMS = bocker bocker-pull bocker-snap bocker-net bocker-cg bocker-spawn
TUPLE := $(shell rustc -vV | sed -n 's/^host: //p')
# Absolute, whether CARGO_TARGET_DIR is set or not.
BUILT = $(or $(abspath $(CARGO_TARGET_DIR)),$(CURDIR)/target)/$(TUPLE)
BIN = $(BUILT)/release

# Program=package of each peer and tool that the tests drive. The fixtures are made of a static busybox.
NEEDED = busybox=busybox-static docker-registry=docker-registry skopeo=skopeo umoci=umoci runc=runc crun=crun \
	nft=nftables ip=iproute2 sysctl=procps zstd=zstd xz=xz-utils bzip2=bzip2 jq=jq getcap=libcap2-bin getfattr=attr openssl=openssl curl=curl python3=python3 script=bsdutils tmux=tmux \
	ps=procps pgrep=procps fuser=psmisc \
	podman=podman dockerd=docker.io docker=docker.io ctr=containerd iptables=iptables tc=iproute2 /usr/lib/cni/bridge=containernetworking-plugins \
	nsenter=util-linux xargs=findutils mkfs.btrfs=btrfs-progs btrfs=btrfs-progs mkfs.ext4=e2fsprogs losetup=mount
# The files of tests that run a second time, with BOCKER_ROOT on btrfs.
BTRFS_TESTS = snap killed steps session pipeline spawn original_bugs many hostile swap files volumes freeze \
	attach create ends events exec health init inspect logs luck ps restarts top
# What a virtual machine takes; the kernel comes by .ci/guest-kernel.
GUEST_NEEDED = qemu-system-x86_64=qemu-system-x86 mkfs.ext4=e2fsprogs ldd=libc-bin busybox=busybox-static
# The files of tests that run there (one machine each; tests that run nowhere else are marked #[ignore]), what they bring
# along, and what is not worth an emulated processor's time: what takes long there, or has to do with no kernel, or
# with one that is newer. All of that runs on this machine.
GUEST_TESTS = session cg_v2 freeze clock attach exec ends restarts init logs health luck
GUEST_PEERS = docker-registry skopeo runc ps pgrep fuser
GUEST_SKIP = docker_hub refused \
	one_who_ do_not_keep_to left_open a_client_or_a_front_end is_small output_that_nobody_reads attached_to_says only_the_streams \
	without_descriptors large_input can_be_pasted drawn_anew left_alone \
	a_hundred_at_once had_to_kill stopped_already all_are_asked \
	what_cannot_be_begun stopped_or_killed_while each_run_ends success_is_the_end a_failure_is_tried who_stays_with_it \
	full_disk a_time_selects a_log_has the_end_of_a_log a_list_of_words \
	waits_for_the_kernel killed_at_any_moment cut_off a_number_that_is_another somebody_ a_stage_that_is_killed \
	without_a_zone whose_parent_is_killed is_kept_though

# The same for make bench, and who is compared: without one of these it does.
BENCH_NEEDED = hyperfine=hyperfine runc=runc busybox=busybox-static jq=jq ip=iproute2
BENCH_PEERS = bwrap=bubblewrap crun=crun podman=podman dockerd=docker.io
BENCH_LIFE_NEEDED = bash=bash busybox=busybox-static ip=iproute2 pgrep=procps
BENCH_LIFE_PEERS = podman=podman dockerd=docker.io
BENCH_NET_NEEDED = bash=bash ip=iproute2 jq=jq perl=perl-base
BENCH_NET_PEERS = /usr/lib/cni/bridge=containernetworking-plugins
BENCH_PORTS_NEEDED = iperf3=iperf3 nft=nftables busybox=busybox-static jq=jq ip=iproute2
BENCH_PORTS_PEERS = dockerd=docker.io
BENCH_IMAGES_NEEDED = docker-registry=docker-registry skopeo=skopeo umoci=umoci jq=jq curl=curl ip=iproute2 \
	mmdebstrap=mmdebstrap mkfs.btrfs=btrfs-progs
BENCH_IMAGES_PEERS = podman=podman dockerd=docker.io containerd=containerd buildah=buildah
# Where what is pulled there lies, and a root with the programs of Debian trixie.
BENCH_FIXTURES ?= $(BUILT)/tmp/bench

.PHONY: all build run test soak needed guest guest-needed bench bench-life bench-net bench-ports bench-images install uninstall clean

all: build

build:
	$(CARGO) build $(CARGOFLAGS) --release $(PROGRAMS:%=--bin %)

run: build
	@PATH="$(BIN):$$PATH" sh .ci/first-minute

# The tests are built without optimization, which is fastest, and drive the programs as they are installed: on this machine,
# then, whatever came of it, on btrfs and in the virtual one.
test: needed guest-needed build
	@BOCKER_BIN_DIR="$(BIN)" BOCKER_TESTS_MUST_RUN=1 sh -c '\
		tests() { if $(CARGO) nextest --version >/dev/null 2>&1; \
			then $(CARGO) nextest run $(CARGOFLAGS) --no-fail-fast "$$@"; \
			else $(CARGO) test $(CARGOFLAGS) --no-fail-fast "$$@"; fi; }; \
		tests --workspace; result=$$?; \
		BOCKER_TEST_DRIVER=btrfs; export BOCKER_TEST_DRIVER; \
		tests --package bocker-tests $(BTRFS_TESTS:%=--test %) || result=$$?; \
		unset BOCKER_TEST_DRIVER; \
		$(CARGO) test $(CARGOFLAGS) --no-fail-fast --package bocker-tests $(GUEST_TESTS:%=--test %) --config \
			"target.$(TUPLE).runner=[\"$(BUILT)/debug/in-guest\"$(GUEST_PEERS:%=, \"--with\", \"%\")]" \
			-- --test-threads=1 --include-ignored $(GUEST_SKIP:%=--skip %) || result=$$?; \
		exit $$result'

soak: needed build
	@BOCKER_BIN_DIR="$(BIN)" BOCKER_TESTS_MUST_RUN=1 $(CARGO) test $(CARGOFLAGS) --package bocker-tests --test soak -- --ignored --nocapture

guest: guest-needed build
	@BOCKER_BIN_DIR="$(BIN)" $(CARGO) run --quiet $(CARGOFLAGS) --package bocker-tests -- -t sh

needed:
	@sh .ci/needed $(NEEDED)

guest-needed:
	@sh .ci/needed $(GUEST_NEEDED)
	@sh .ci/guest-kernel "$(BUILT)/tmp/kernel"

bench: build
	$(CARGO) build $(CARGOFLAGS) --release -p bocker-pipe --example copies
	@sh .ci/needed $(BENCH_NEEDED)
	@for pair in $(BENCH_PEERS); do sh .ci/needed $$pair || true; done
	@PATH="$(BIN):$(BIN)/examples:$$PATH" unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private \
		sh bench/compare

bench-life: build
	@sh .ci/needed $(BENCH_LIFE_NEEDED)
	@for pair in $(BENCH_LIFE_PEERS); do sh .ci/needed $$pair || true; done
	@PATH="$(BIN):$$PATH" unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private \
		bash bench/life

bench-net: build
	@sh .ci/needed $(BENCH_NET_NEEDED)
	@sh .ci/needed $(BENCH_NET_PEERS) || true
	@PATH="$(BIN):$$PATH" unshare --mount --net --propagation private bash bench/net

bench-ports: build
	$(CARGO) build $(CARGOFLAGS) --release -p bocker-net --example connections
	@sh .ci/needed $(BENCH_PORTS_NEEDED)
	@sh .ci/needed $(BENCH_PORTS_PEERS) || true
	@PATH="$(BIN):$(BIN)/examples:$$PATH" unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private \
		bash bench/ports

bench-images: build
	$(CARGO) build $(CARGOFLAGS) --release -p bocker-snap --example inflate
	@sh .ci/needed $(BENCH_IMAGES_NEEDED)
	@for pair in $(BENCH_IMAGES_PEERS); do sh .ci/needed $$pair || true; done
	@sh bench/fixtures "$(BENCH_FIXTURES)"
	@PATH="$(BIN):$(BIN)/examples:$$PATH" unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private \
		sh bench/images "$(BENCH_FIXTURES)"

install: build
	install -d "$(DESTDIR)$(PREFIX)/bin"
	install -m 755 $(PROGRAMS:%="$(BIN)/%") "$(DESTDIR)$(PREFIX)/bin"
	install -d "$(DESTDIR)$(PREFIX)/$(UNITS)"
	sed 's|@BIN@|$(PREFIX)/bin|' contrib/bocker.service >"$(DESTDIR)$(PREFIX)/$(UNITS)/bocker.service"

uninstall:
	rm -f $(PROGRAMS:%="$(DESTDIR)$(PREFIX)/bin/%") "$(DESTDIR)$(PREFIX)/$(UNITS)/bocker.service"

clean:
	$(CARGO) clean
