/* Which engine runs the guest: what --engine says, and what auto makes of this host. */
#include <stdio.h>

#include "machine/machine.h"

static void take(struct engine_choice *choice, const struct engine *engine)
{
    choice->engine = engine;
    engine->probe(&choice->caps);
}

void machine_choose_engine(enum config_engine wanted, struct engine_choice *choice)
{
    *choice = (struct engine_choice){0};
    if (wanted == ENGINE_SOFT) {
        take(choice, &engine_soft);
        return;
    }
    take(choice, &engine_kvm);
    if (wanted == ENGINE_KVM || (choice->caps.usable && choice->caps.hardware_assisted))
        return;
    if (choice->caps.present)
        snprintf(choice->note, sizeof(choice->note), "the software engine runs this guest: %s", choice->caps.why);
    take(choice, &engine_soft);
}
