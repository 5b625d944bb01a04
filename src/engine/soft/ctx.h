/* Offsets from the context pointer (host RSP while guest code runs) that C, assembly and emitted code share. */
#pragma once

/* The pointer stands this far inside struct soft_cpu, so that every hot field is within a signed byte of it. */
#define CTX_BIAS 128

#define CTX_GPR(n) (-128 + 8 * (n))
#define CTX_RIP 0
#define CTX_RFLAGS 8
#define CTX_SLOT(n) (16 + 8 * (n))

#define CTX_PAGE_MASK CTX_SLOT(0)   /* constant: bits 12..47, for PEXT */
#define CTX_WRITE_TABLE CTX_SLOT(1) /* constants: index distance from the supervisor's read table to its write table, */
#define CTX_CODE_PAGE CTX_SLOT(2)   /* gva of the page that the running block lies in */
#define CTX_SAVE_RAX CTX_SLOT(3)    /* flags-live sequences */
#define CTX_SAVE_FLAGS CTX_SLOT(4)
#define CTX_EXIT CTX_SLOT(5) /* why code was left: enum code_exit, and its operand above it */
#define CTX_SAVE_RCX CTX_SLOT(6)
#define CTX_HOST_RSP CTX_SLOT(7)
#define CTX_JUMP_CACHE CTX_SLOT(8) /* current privilege's jump cache */
#define CTX_JUMP_MASK CTX_SLOT(9)  /* constant: address bits that index it, for PEXT */
#define CTX_RESUME CTX_SLOT(10)    /* host pc: an instruction's start on a miss, a link's site on a branch exit, a fault's pc */
#define CTX_TEMP CTX_SLOT(11)
#define CTX_USER_READ CTX_SLOT(12)  /* ... to the user's read table, */
#define CTX_USER_WRITE CTX_SLOT(13) /* ... and to the user's write table */
#define CTX_INSNS CTX_SLOT(14)      /* guest instructions executed, when counted */
#define CTX_ENTRY CTX_SLOT(15)      /* where to go after the registers are loaded */
