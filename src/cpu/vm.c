/* One virtual machine: its lock, and how it comes to an end. */
#include "cpu/vm.h"

#include <stdio.h>

void vm_init(struct vm *vm)
{
    pthread_mutex_init(&vm->lock, NULL);
    pthread_cond_init(&vm->changed, NULL);
    vm->end = VM_RUNNING;
    vm->holds = VM_HOLD_MACHINE;
    vm->topology = (struct x86_topology){.sockets = 1, .cores = VCPU_MAX, .threads = 1};
}

void vm_fini(struct vm *vm)
{
    trace_free(&vm->trace);
    pthread_cond_destroy(&vm->changed);
    pthread_mutex_destroy(&vm->lock);
}

bool vm_is_held(struct vm *vm, unsigned holds)
{
    bool held;

    pthread_mutex_lock(&vm->lock);
    held = (vm->holds & holds) != 0;
    pthread_mutex_unlock(&vm->lock);
    return held;
}

/* On the loop's own thread, so that a stop asked for before loop_run() is not lost. */
static void stop_loop(void *loop)
{
    loop_stop(loop);
}

void vm_request_end(struct vm *vm, enum vm_end end, int value, const char *text)
{
    bool heard;

    pthread_mutex_lock(&vm->lock);
    /* A guest that does nothing but reset must not be the first each time. */
    heard = vm->end == VM_RUNNING || (vm->end == VM_END_RESET && end == VM_END_QUIT);
    if (heard) {
        vm->end = end;
        vm->end_value = value;
        snprintf(vm->end_text, sizeof(vm->end_text), "%s", text ? text : "");
        vm->holds |= VM_HOLD_MACHINE;
    }
    /* The guest asked for its last instruction: it shall not run on until the loop's thread gets here. */
    for (unsigned i = 0; heard && i < vm->vcpu_count; i++) {
        if (!vm->vcpus[i])
            continue;
        atomic_fetch_or(&vm->vcpus[i]->requests, VCPU_PAUSE);
        vm->engine->kick(vm->vcpus[i]); /* engines never take the lock */
    }
    pthread_mutex_unlock(&vm->lock);
    if (heard && vm->loop)
        loop_post(vm->loop, stop_loop, vm->loop);
}
