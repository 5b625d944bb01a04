/* What each request on the control socket does. All on the loop's thread. */
#include <errno.h>
#include <jansson.h>
#include <unistd.h>

#include "api/control.h"
#include "base/clock.h"

typedef int carry_out(struct control_client *, const struct control_request *, json_t *answer, struct err *);

static const char *state_name(struct vm *vm)
{
    return vm_is_held(vm, VM_HOLD_USER) ? "paused" : "running";
}

/* Takes the value. */
static int put(json_t *answer, const char *key, json_t *value, struct err *e)
{
    return json_object_set_new(answer, key, value) == 0 ? 0 : err_set(e, ENOMEM, "the VM's process has no memory for the answer");
}

static int info(struct control_client *client, const struct control_request *request, json_t *answer, struct err *e)
{
    struct vm *vm = &client->control->machine->vm;
    json_t *more = json_pack("{s:s, s:i, s:s, s:s, s:i, s:I, s:f}", "name", vm->config.name, "pid", (int)getpid(), "state", state_name(vm),
                             "engine", vm->engine->name, "cpus", (int)vm->config.cpus, "memory", (json_int_t)vm->config.memory, "uptime",
                             (double)(clock_monotonic_ns() - vm->started_ns) / NS_PER_SEC);
    int error = more ? json_object_update(answer, more) : -1;

    (void)request;
    json_decref(more);
    return error ? err_set(e, ENOMEM, "the VM's process has no memory for the answer") : 0;
}

static int pause_vm(struct control_client *client, const struct control_request *request, json_t *answer, struct err *e)
{
    struct vm *vm = &client->control->machine->vm;

    (void)request;
    vcpu_pause_all(vm, VM_HOLD_USER);
    return put(answer, "state", json_string(state_name(vm)), e);
}

static int resume_vm(struct control_client *client, const struct control_request *request, json_t *answer, struct err *e)
{
    struct vm *vm = &client->control->machine->vm;

    (void)request;
    vcpu_resume_all(vm, VM_HOLD_USER);
    return put(answer, "state", json_string(state_name(vm)), e);
}

/* A guest that stands does not see it, and would be ended by whoever waits for it in vain. */
static int power_button(struct control_client *client, const struct control_request *request, json_t *answer, struct err *e)
{
    struct machine *m = client->control->machine;
    bool enabled = acpi_pm_power_button_enabled(&m->acpi_pm);

    (void)request;
    if (vm_is_held(&m->vm, VM_HOLD_USER))
        return err_set(e, EBUSY, "%s is paused and cannot see its power button: resume it first, or end it with umbra kill",
                       client->control->name);
    acpi_pm_power_button(&m->acpi_pm);
    return put(answer, "enabled", json_boolean(enabled), e);
}

static int reset(struct control_client *client, const struct control_request *request, json_t *answer, struct err *e)
{
    (void)request, (void)answer, (void)e;
    vm_request_end(&client->control->machine->vm, VM_END_RESET, VM_RESET_BY_HOST, NULL);
    return 0;
}

static int nmi(struct control_client *client, const struct control_request *request, json_t *answer, struct err *e)
{
    struct vm *vm = &client->control->machine->vm;

    (void)request, (void)answer;
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        int error = vm->engine->nmi(vm->vcpus[i]);

        if (error)
            return err_set(e, -error, "the %s engine cannot send an NMI to CPU %u", vm->engine->name, i);
    }
    return 0;
}

static int quit(struct control_client *client, const struct control_request *request, json_t *answer, struct err *e)
{
    (void)request, (void)answer, (void)e;
    vm_request_end(&client->control->machine->vm, VM_END_QUIT, 0, "ended by a request on its control socket");
    return 0;
}

static carry_out *const commands[CONTROL_KIND_COUNT] = {
    [CONTROL_INFO] = info,   [CONTROL_PAUSE] = pause_vm, [CONTROL_RESUME] = resume_vm, [CONTROL_POWER_BUTTON] = power_button,
    [CONTROL_RESET] = reset, [CONTROL_NMI] = nmi,        [CONTROL_QUIT] = quit,
};

int control_carry_out(struct control_client *client, const struct control_request *request, json_t *answer, struct err *e)
{
    return commands[request->kind](client, request, answer, e);
}
