/* The host's /dev/kvm: whether it is there, can be used, and has hardware behind it. */
#pragma once

#include "base/types.h"

struct host_kvm {
    bool usable;   /* it can be opened and answers */
    bool assisted; /* by VT-x or AMD-V; without, KVM emulates a guest's kernel */
    int api;       /* its version of the API */
    int error;     /* errno, when it is not usable */
};

void host_kvm_look(struct host_kvm *);
