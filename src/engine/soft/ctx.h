/* Offsets from the context pointer (host RSP while guest code runs) that C, assembly and emitted code share. */
#pragma once

/*
 * The low 16 bits of the pointer are always CTX_LOW, which is BEXTR's control for bits 12 to 47: so the number of an address's page comes by
 * one instruction of one cycle, with no register spent on a constant. The pointer stands CTX_BIAS inside struct soft_cpu, so that every hot
 * field is within a signed byte of it.
 */
#define CTX_LOW (36 << 8 | 12)
#define CTX_BIAS 140

#define CTX_GPR(n) (8 * (n)-CTX_BIAS)
/* Here the struct has 16 bytes for one word that translated code pushes and pops at once. */
#define CTX_RIP (144 - CTX_BIAS)
#define CTX_RFLAGS (152 - CTX_BIAS)
#define CTX_SLOT(n) (160 + 8 * (n)-CTX_BIAS)

/* Constants: index distance from the user's read table, where GS points, to the other three. */
#define CTX_USER_WRITE CTX_SLOT(0)
#define CTX_READ CTX_SLOT(1)
#define CTX_CODE_PAGE CTX_SLOT(2) /* gva of the page that the running block lies in */
#define CTX_SAVE_RAX CTX_SLOT(3)
/* The arithmetic flags, while the host's hold others: OF in bit 0, LAHF's in bits 15:8. Or a recipe for them (flags_recipe.h). */
#define CTX_SAVE_FLAGS CTX_SLOT(4)
#define CTX_WRITE CTX_SLOT(5)
#define CTX_FLAGS_VALUE CTX_SLOT(6) /* to which a recipe is applied */
/* Constants: distance from where GS points to the fetch tables of user and supervisor, in their entries. */
#define CTX_USER_FETCH CTX_SLOT(7)
#define CTX_FETCH CTX_SLOT(8)
#define CTX_TEMP CTX_SLOT(9)
/*
 * The page that the stack of user and supervisor was in last, and its addend in the write table: translate_share.c. CTX_NO_PAGE: none.
 */
#define CTX_USER_STACK CTX_SLOT(10)
#define CTX_STACK CTX_SLOT(12)
#define CTX_NO_PAGE (1ULL << 62)
/* Out of a signed byte's reach: */
#define CTX_ADDEND(n) CTX_SLOT(14 + (n)) /* of shared lookups: translate_share.c */
#define CTX_ADDENDS 6
#define CTX_EXIT CTX_SLOT(20) /* why code was left: enum code_exit */
#define CTX_HOST_RSP CTX_SLOT(21)
#define CTX_RESUME CTX_SLOT(22) /* of an exit that a call made: where that returns to, and its operand lies */
#define CTX_ENTRY CTX_SLOT(23)  /* where to go after the registers are loaded */
#define CTX_INSNS CTX_SLOT(24)  /* guest instructions executed, when counted */
/* translate_string.c: addends of the pointers of a run, and the count behind it. */
#define CTX_STRING_FROM CTX_SLOT(25)
#define CTX_STRING_TO CTX_SLOT(26)
#define CTX_STRING_LEFT CTX_SLOT(27)
/* Accesses that are not aligned are counted down here: one in many leaves, so that its block is made anew. */
#define CTX_UNALIGNED CTX_SLOT(28)
#define CTX_TARGET CTX_SLOT(29) /* of an indirect call, while it pushes: twice the number of its entry in the jump cache */
/* While a recipe is followed, and where its code goes on. */
#define CTX_SAVE_RCX CTX_SLOT(30)
#define CTX_RECIPE_BACK CTX_SLOT(31)
#define CTX_SLOTS 32
