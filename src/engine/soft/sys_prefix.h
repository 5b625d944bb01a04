/* The legacy prefixes of an instruction whose memory operands are implicit: repeat and segment override. */
#pragma once

#include "engine/soft/insn.h"

struct sys_prefix {
    uint8_t rep; /* 0xf3 (REP, REPE), 0xf2 (REPNE) or 0; the last one counts */
    uint8_t seg; /* the override, else SEG_DS */
};

static inline struct sys_prefix sys_prefix_scan(const struct insn *insn)
{
    struct sys_prefix p = {0, SEG_DS};

    for (unsigned i = 0; i < insn->len; i++) {
        switch (insn->bytes[i]) {
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e: /* ES, CS, SS, DS: ignored in 64-bit mode (SDM vol. 1 3.4.4) */
            if (insn->mode_bits != 64)
                p.seg = insn->bytes[i] >> 3 & 3;
            break;
        case 0x64: p.seg = SEG_FS; break;
        case 0x65: p.seg = SEG_GS; break;
        case 0xf2:
        case 0xf3: p.rep = insn->bytes[i]; break;
        case 0x66:
        case 0x67:
        case 0xf0: break;
        default:
            if (insn->mode_bits == 64 && (insn->bytes[i] & 0xf0) == 0x40)
                break; /* a REX that another prefix follows is void, but not the end */
            return p;
        }
    }
    return p;
}
