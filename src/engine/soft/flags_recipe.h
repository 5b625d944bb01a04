/* Recipes: how flags that hardly anybody asks for are made, kept in their place. */
#pragma once

#include "engine/soft/emit.h"
#include "engine/soft/insn.h"

/*
 * What a jump to anywhere hands over in CTX_SAVE_FLAGS is mostly wanted by nobody. To keep the flags themselves takes five instructions, but to
 * keep how they came about, two: the instruction's kind and constant there, and what it left in its register in CTX_FLAGS_VALUE. In bits 7:0,
 * where flags have 0 or 1, is the kind, and in bits 31:8 the constant.
 */
#define FLAGS_RECIPE_FIRST 2

/* The recipe for what an instruction leaves in all arithmetic flags, and the register in question; 0: there is none. */
uint32_t flags_recipe_of(const struct insn *, unsigned *gpr);

/* The arithmetic flags (FLAG_ bits) that a recipe makes of CTX_FLAGS_VALUE. */
uint64_t flags_recipe_follow(uint32_t recipe, uint64_t value);

/* A piece of code to be called, which follows the recipe in CTX_SAVE_FLAGS and leaves the flags there. Only the host's flags are lost. */
void flags_recipe_emit(struct emit *);
