# Umbra: `make run` boots the default guest, `make test` passes every test, `make help` names the rest.
#
# Sources are found by wildcard: a new file edits nothing here. m= chooses the build: release, debug, asan, tsan, cov, stress;
# fuzz is what the fuzzers are built as.
m ?= release
ifeq ($(origin CC),default)
CC := gcc
endif
PREFIX ?= /usr/local
DESTDIR ?=
VERSION := 0.1.0
B := build/$(m)
MAKEFLAGS += --no-builtin-rules
# V=1 shows whole commands.
Q := $(if $(V),,@)
say = @printf '  %-5s %s\n' $(1) $(2)
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SECONDARY:

# --- what each mode changes ---

ifeq ($(m),fuzz)
CC := clang
endif

WARNINGS := -Wall -Wextra -Werror -Wshadow -Wundef -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wimplicit-fallthrough
# Off: sentences are cut to their buffers on purpose.
WARNINGS += $(if $(findstring clang,$(CC)),,-Wno-format-truncation)
mode_release := -O2
mode_debug := -Og
mode_asan := -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
mode_tsan := -O1 -fsanitize=thread -DSOFT_TSAN
mode_cov := -O0 --coverage
# Small tables, so that what is rare happens all the time.
mode_stress := -O1 -DSHADOW_RECORDS=300U -DSHADOW_POPULATED_MAX=64U -DCACHE_BYTES=0x40000 -DCACHE_BLOCK_INSNS=5
mode_fuzz := -O1 -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all
ifeq ($(origin mode_$(m)),undefined)
$(error m=$(m) is no build mode: it is one of release, debug, asan, tsan, cov, stress, fuzz)
endif


# What has a static library goes in, for loading shared ones is half of the time from exec to the first VM entry. A test stands in for liburing.
LIBS := -lZydis -Wl,-Bstatic -ljansson -lzstd -llz4 -llzma -lz -Wl,-Bdynamic -luring -lslirp
CPPFLAGS += -Isrc -I$(B)/gen -D_GNU_SOURCE -DUMBRA_VERSION='"$(VERSION)"'
# Line numbers are enough for a sanitizer, and build faster.
CFLAGS += -std=gnu17 $(if $(filter release debug,$(m)),-g,-g1) $(WARNINGS) $(mode_$(m)) -pthread
LDFLAGS += $(mode_$(m)) -pthread

# Guest vectors may be live while the software engine's C code runs (src/engine/soft/soft.h).
SOFT_FLAGS := -mgeneral-regs-only $(if $(filter tsan,$(m)),-include engine/soft/tsan.h)

# --- what there is ---

find = $(shell [ -d $(1) ] && find $(1) -name '$(2)' | LC_ALL=C sort)
sources := $(call find,src,*.c) $(call find,src,*.S)
main_source := src/cli/main.c
objects := $(patsubst %,$(B)/obj/%.o,$(filter-out $(main_source),$(sources)))
tables := $(patsubst src/%.asl,$(B)/gen/%.aml.h,$(call find,src,*.asl))
unit_tests := $(patsubst tests/unit/%.c,$(B)/tests/unit/%,$(wildcard tests/unit/*_test.c))
# Unit tests that run on a real KVM in the lab too.
lab_tests := build/release/tests/unit/kvm_engine_test build/release/tests/unit/kvm_events_test
insn_tests := $(patsubst tests/insn/%.c,$(B)/tests/insn/%,$(wildcard tests/insn/*_test.c))

.PHONY: all deps-build
all: $(B)/umbra $(if $(filter release,$(m)),build/umbra)

deps-build deps-test deps-guest deps-image deps-bench deps-lab: deps-%:
	@tools/deps.sh $*

build/umbra: build/release/umbra
	@ln -sf release/umbra $@

# Objects wait for the packages that they include, not for each other.
$(objects) $(B)/obj/$(main_source).o: | deps-build $(tables)
$(B)/obj/src/engine/soft/%: CFLAGS += $(SOFT_FLAGS)
# Without ThreadSanitizer: it has no shadow memory for what lies in the shadow tables' reservation, and statistics are read while vCPUs count, each
# counter a word with one writer.
$(addprefix $(B)/obj/src/engine/soft/,shadow.c.o jump_cache.c.o stats.c.o): CFLAGS += -fno-sanitize=thread

$(B)/obj/%.c.o: %.c Makefile
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

$(B)/obj/%.S.o: %.S Makefile
	@mkdir -p $(@D)
	$(call say,AS,$<)
	$(Q)$(CC) $(CPPFLAGS) $(filter-out -fsanitize=%,$(CFLAGS)) -MMD -MP -c $< -o $@

# A table is compiled by iasl, and becomes a C array.
$(B)/gen/%.aml.h: src/%.asl | deps-build
	@mkdir -p $(@D)
	$(call say,IASL,$<)
	$(Q)iasl -va -vs -p $(B)/gen/$* $< > $(B)/gen/$*.log || { cat $(B)/gen/$*.log; exit 1; }
	@{ echo "static const unsigned char $(notdir $*)_aml[] = {"; \
	   od -An -v -tx1 $(B)/gen/$*.aml | sed 's/ \([0-9a-f][0-9a-f]\)/0x\1,/g'; echo "};"; } > $@

$(B)/libumbra.a: $(objects)
	@rm -f $@
	$(call say,AR,$@)
	$(Q)$(AR) rcsD $@ $^

$(B)/umbra: $(B)/obj/$(main_source).o $(B)/libumbra.a
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS)

-include $(call find,$(B),*.d)

# --- the default guest, and running it ---

GUEST_DIR := build/guest
GUEST_KERNEL := $(GUEST_DIR)/cloud/vmlinuz
GUEST_INITRD := $(GUEST_DIR)/initrd.cpio.gz
GUEST_DISK := $(GUEST_DIR)/data.img
DEBIAN_IMAGE := $(GUEST_DIR)/debian.img
DEBIAN_DISK := $(GUEST_DIR)/debian-run.img
# No self-tests of the guest's ciphers, which are half of its instructions up to init.
GUEST_APPEND ?= console=ttyS0 quiet cryptomgr.notests
DEBIAN_APPEND ?= console=ttyS0 root=/dev/vda cryptomgr.notests
RUN ?=

.PHONY: guest run image run-debian
guest: | deps-guest
	@tools/guest-kernel.sh
	@tools/guest-initrd.sh

# Sparse, and kept between runs: no rule makes it again.
$(GUEST_DISK): | deps-guest
	@mkdir -p $(@D)
	$(call say,DISK,$@)
	@truncate -s 1G $@.new
	@PATH=$$PATH:/sbin:/usr/sbin mke2fs -q -t ext4 -L data -E root_owner=0:0,assume_storage_prezeroed=1 $@.new
	@mv $@.new $@

# RUN= adds flags of umbra run: make run RUN="--memory 2G --stats"
run: all guest $(GUEST_DISK)
	@build/umbra run --kernel $(GUEST_KERNEL) --initrd $(GUEST_INITRD) --append "$(GUEST_APPEND)" \
		--disk $(GUEST_DISK) --net user $(RUN)

# A Debian with systemd, and the same machine with a copy of it, which is kept between runs: root has no password.
image: guest | deps-image
	@tools/debian-image.sh
run-debian: all image
	@[ -f $(DEBIAN_DISK) ] || cp --sparse=always $(DEBIAN_IMAGE) $(DEBIAN_DISK)
	@build/umbra run --kernel $(GUEST_KERNEL) --initrd $(GUEST_INITRD) --append "$(DEBIAN_APPEND)" \
		--disk $(DEBIAN_DISK) --net user $(RUN)

include guest/guest.mk

# --- tests ---

# A test's own definitions take the place of the library's: -z muldefs, and the test's object comes first.
$(B)/tests/%_test: $(B)/obj/tests/%_test.c.o $(B)/libumbra.a | deps-test
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -Wl,-z,muldefs -o $@ $^ $(LIBS) -lcmocka

$(B)/obj/tests/%.o: | deps-test $(tables)
$(B)/obj/tests/insn/%.o $(B)/obj/tests/fuzz/%.o: CFLAGS += -Itests

.PHONY: unit-tests insn-tests
unit-tests: $(unit_tests)
insn-tests: $(insn_tests)

# make fuzz-NAME: SECONDS_FUZZ of tests/fuzz/NAME.c, with what earlier runs found in build/corpus/NAME.
SECONDS_FUZZ ?= 30
fuzz_names := $(basename $(notdir $(wildcard tests/fuzz/*.c)))
.PHONY: fuzzers $(addprefix fuzz-,$(fuzz_names))
fuzzers: $(addprefix $(B)/fuzz/,$(fuzz_names))
$(B)/fuzz/%: $(B)/obj/tests/fuzz/%.c.o $(B)/libumbra.a | deps-test
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -fsanitize=fuzzer -Wl,-z,muldefs -o $@ $^ $(LIBS)
$(addprefix fuzz-,$(fuzz_names)): fuzz-%:
	@$(MAKE) --no-print-directory m=fuzz build/fuzz/fuzz/$*
	@tests/fuzz/run.sh $* $(SECONDS_FUZZ)

# --- suites: a line each, totals at the end; logs in build/test-logs ---

PYTEST := /usr/bin/python3 -m pytest -q -rs -p no:cacheprovider
CASES ?= 200000
JOBS ?= $(shell nproc)
SEED ?= 1
guests_of = UMBRA=build/$(1)/umbra GUESTS=build/release/guest MODES='$(2)' $(PYTEST) tests/guest

# Long ones first, for two run at a time.
suites = \
	linux "UMBRA=build/umbra $(PYTEST) -m 'not soak' tests/linux" \
	lab "UMBRA=build/umbra $(PYTEST) -m 'not soak' tests/lab" \
	lint "$(MAKE) --no-print-directory lint" \
	unit "tests/unit/run.sh build/asan" \
	insn "build/release/tests/insn/insn_test --seed $(SEED) --cases $(CASES)" \
	insn-translated "build/release/tests/insn/insn_test --engine translate --seed $(SEED) --cases $(CASES)" \
	sequence "build/release/tests/insn/sequence_test --seed $(SEED) --cases $(CASES)" \
	anywhere "build/release/tests/insn/anywhere_test --seed $(SEED) --cases 100" \
	anywhere-asan "build/asan/tests/insn/anywhere_test --seed $(SEED) --cases 20" \
	decode "build/release/tests/insn/decode_test build/guest/cloud/vmlinux" \
	guest "$(call guests_of,release,step translate lockstep)" \
	guest-stress "$(call guests_of,stress,translate)" \
	guest-asan "$(call guests_of,asan,step translate)" \
	cli "UMBRA=build/umbra GUESTS=build/release/guest $(PYTEST) -m 'not soak' tests/cli" \
	$(foreach n,$(fuzz_names),fuzz-$(n) "tests/fuzz/run.sh $(n) $(if $(filter config kernel_image step,$(n)),20,5)")

# Every 800 blocks the stress build's code cache is full: Linux boots in minutes.
STRESS_BOOTS := poweroff or reboot_starts or statistics
soak_suites = \
	insn "build/release/tests/insn/insn_test --seed $(SEED) --cases 10000000" \
	insn-translated "build/release/tests/insn/insn_test --engine translate --seed $(SEED) --cases 10000000" \
	sequence "build/release/tests/insn/sequence_test --seed $(SEED) --seconds 3600" \
	anywhere "build/release/tests/insn/anywhere_test --seed $(SEED) --every --cases 10000" \
	guest-stress "$(call guests_of,stress,step translate lockstep)" \
	cli "UMBRA=build/umbra $(PYTEST) -m soak tests/cli" \
	linux "UMBRA=build/umbra $(PYTEST) tests/linux" \
	lab "UMBRA=build/umbra $(PYTEST) tests/lab" \
	guest-tsan "$(call guests_of,tsan,step translate)" \
	unit-tsan "build/tsan/tests/unit/soft_smp_test" \
	linux-stress "UMBRA=build/stress/umbra UMBRA_TIMEOUT_SCALE=20 $(PYTEST) -m 'not soak' tests/linux/test_boot.py -k '$(STRESS_BOOTS)'" \
	linux-tsan "UMBRA=build/tsan/umbra UMBRA_TIMEOUT_SCALE=5 $(PYTEST) -m 'not soak' tests/linux" \
	linux-asan "UMBRA=build/asan/umbra $(PYTEST) -m 'not soak' tests/linux" \
	$(foreach n,$(fuzz_names),fuzz-$(n) "tests/fuzz/run.sh $(n) 600")

.PHONY: test soak test-builds lint
# Without QEMU or Bochs their tests of the lab are skipped. The guests' images are made beside the builds: most of their time is of one CPU.
test-builds: | deps-build deps-guest deps-image deps-test
	@tools/deps.sh lab || true
	@$(MAKE) --no-print-directory test-images & images=$$!; \
	$(MAKE) --no-print-directory test-variants; variants=$$?; \
	wait $$images && exit $$variants

.PHONY: test-images test-variants
test-images:
	@tools/guest-kernel.sh cloud generic
	@tools/guest-initramfs-tools.sh cloud
	@$(MAKE) --no-print-directory guest image
test-variants:
	@$(MAKE) --no-print-directory -j$(JOBS) all guests insn-tests $(lab_tests)
	@$(MAKE) --no-print-directory -j$(JOBS) m=asan build/asan/umbra build/asan/tests/insn/anywhere_test unit-tests
	@$(MAKE) --no-print-directory -j$(JOBS) m=stress build/stress/umbra
	@$(MAKE) --no-print-directory -j$(JOBS) m=fuzz fuzzers

test: test-builds
	@tests/run $(suites)

# Hours where the others take minutes.
soak: test-builds
	@tools/debian-image.sh load
	@tools/guest-initramfs-tools.sh generic
	@$(MAKE) --no-print-directory -j$(JOBS) m=tsan build/tsan/umbra build/tsan/tests/unit/soft_smp_test
	@tests/run $(soak_suites)

# Every test in the lab, or those with T in their name: an emulated machine with AMD-V or VT-x and a real KVM (docs/testing.md).
T ?=
.PHONY: lab
lab: all guests guest $(lab_tests) | deps-lab deps-test
	@UMBRA=build/umbra $(PYTEST) -v -s $(if $(T),-k '$(T)') tests/lab

# Layers, names, formatting, both compilers, clang-tidy, cppcheck; prints "N passed, N failed, N skipped".
lint: | deps-build deps-test $(tables)
	@tests/gates/run

# --- measuring: in turn with QEMU's TCG; ROUNDS of them, as Markdown tables ---

ROUNDS ?= 3
.PHONY: bench bench-cpu bench-io bench-start bench-smp bench-boot bench-work
bench: bench-cpu bench-io bench-start bench-smp
bench-cpu bench-io bench-start bench-smp: bench-%: all guest guests | deps-bench
	@tests/bench/$*.py $(ROUNDS)
bench-boot: all image | deps-bench
	@tests/bench/boot.py $(ROUNDS)
bench-work: all guest | deps-image deps-bench
	@tools/debian-image.sh bench
	@tests/bench/work.py $(ROUNDS)

# --- installing ---

$(B)/umbra.1: $(B)/umbra
	@$< --man-page > $@
$(B)/umbra.bash: $(B)/umbra
	@$< --bash-completion > $@

.PHONY: install
install: $(B)/umbra $(B)/umbra.1 $(B)/umbra.bash
	install -D -m 755 $(B)/umbra $(DESTDIR)$(PREFIX)/bin/umbra
	install -D -m 644 $(B)/umbra.1 $(DESTDIR)$(PREFIX)/share/man/man1/umbra.1
	install -D -m 644 $(B)/umbra.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/umbra

.PHONY: help clean
help:
	@echo "make            build/umbra              make run        boot the default guest (RUN= adds flags)"
	@echo "make image      a Debian on a disk       make run-debian boot it"
	@echo "make test       every test               make soak       the long ones"
	@echo "make bench      CPU and I/O beside TCG   make bench-cpu, -io, -start, -smp, -boot, -work"
	@echo "make lab        the tests inside an emulated machine with KVM (T=name: one)"
	@echo "make lint       the gates alone          make fuzz-NAME  one fuzzer: $(fuzz_names)"
	@echo "make guest      the default guest        make guests     the test guests"
	@echo "make unit-tests, insn-tests, fuzzers     build these of m="
	@echo "make install    PREFIX, DESTDIR          make clean      remove build/"
	@echo "m=release|debug|asan|tsan|cov|stress chooses the build, V=1 shows the commands"
clean:
	rm -rf build
