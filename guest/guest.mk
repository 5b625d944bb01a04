# Guest images, included by the Makefile: guest/tests/*.c and *.S, each a kernel of its own on guest/lib. *_32.c are 32-bit, the rest 64-bit;
# name.c and name.S together make one image. B is the build directory.
OBJCOPY ?= objcopy

GUEST := $(B)/guest
GUEST_CC := $(firstword $(filter-out ccache,$(CC)))
GUEST_FLAGS := -std=gnu17 -O1 -g0 -ffreestanding -fno-pic -fno-pie -fno-stack-protector -fcf-protection=none -fno-builtin \
	-fno-omit-frame-pointer -fno-asynchronous-unwind-tables -mgeneral-regs-only -mno-red-zone -Iguest/lib \
	-Wall -Wextra -Werror -Wshadow -Wundef -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings \
	-Wimplicit-fallthrough
GUEST_LD := -nostdlib -static -no-pie -Wl,-T,guest/lib/guest.ld -Wl,--build-id=none -Wl,-z,max-page-size=4096 -Wl,-N,--no-warn-rwx-segments
GUEST_HEADERS := $(wildcard guest/lib/*.h guest/lib/*.inc guest/tests/*.h) guest/guest.mk

guest_lib_64 := $(addprefix $(GUEST)/64/lib/,ap_start.o console.o fault.o irq.o paging.o seg.o smp.o test.o header.o start64.o vectors64.o)
guest_lib_32 := $(addprefix $(GUEST)/32/lib/,console.o fault.o irq.o seg.o test.o header.o start32.o vectors32.o)

guest_names := $(sort $(basename $(notdir $(wildcard guest/tests/*.c))))
guest_images := $(guest_names:%=$(GUEST)/%.elf)

.PHONY: guests
guests: $(guest_images)

$(GUEST)/64/%.o: guest/%.c $(GUEST_HEADERS)
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(GUEST_CC) -m64 -mcmodel=small $(GUEST_FLAGS) -c $< -o $@
$(GUEST)/64/%.S.o: guest/%.S $(GUEST_HEADERS)
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(GUEST_CC) -m64 -Iguest/lib -c $< -o $@
$(GUEST)/64/%.o: guest/%.S $(GUEST_HEADERS)
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(GUEST_CC) -m64 -Iguest/lib -c $< -o $@
$(GUEST)/32/%.o: guest/%.c $(GUEST_HEADERS)
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(GUEST_CC) -m32 -march=pentium4 $(GUEST_FLAGS) -c $< -o $@
$(GUEST)/32/%.S.o: guest/%.S $(GUEST_HEADERS)
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(GUEST_CC) -m32 -Iguest/lib -c $< -o $@
$(GUEST)/32/%.o: guest/%.S $(GUEST_HEADERS)
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(GUEST_CC) -m32 -Iguest/lib -c $< -o $@

# An image of 64-bit code in an ELF32 container: multiboot loaders take no other.
define guest_image
$(GUEST)/$(1).elf: $(GUEST)/$(2)/tests/$(1).o $(if $(wildcard guest/tests/$(1).S),$(GUEST)/$(2)/tests/$(1).S.o) \
		$(guest_lib_$(2)) guest/lib/guest.ld
	@printf '  %-5s %s\n' GUEST $$@
	$$(Q)$(GUEST_CC) -m$(2) $(GUEST_LD) -o $$@.$(2) $$(filter %.o,$$^)
	$$(Q)$(OBJCOPY) -O elf32-i386 $$@.$(2) $$@
	@rm $$@.$(2)
endef
$(foreach n,$(guest_names),$(eval $(call guest_image,$(n),$(if $(filter %_32,$(n)),32,64))))
