/* What each request on the control socket does. All on the loop's thread. */
#include <errno.h>
#include <jansson.h>
#include <unistd.h>

#include "api/control.h"
#include "api/text_screen.h"
#include "base/clock.h"
#include "cpu/stats.h"

typedef int carry_out(struct control_client *, const struct control_request *, json_t *answer, struct err *);

static const char *state_name(struct vm *vm)
{
    if (vm_is_held(vm, VM_HOLD_USER))
        return "paused";
    /* A debugger stops all of them together. */
    return atomic_load(&vm->vcpus[0]->requests) & VCPU_HOLD ? "debugged" : "running";
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

static int statistics(struct control_client *client, const struct control_request *request, json_t *answer, struct err *e)
{
    struct vm *vm = &client->control->machine->vm;
    json_t *stats;
    int error = stats_json(vm, &stats, e);

    (void)request;
    if (!error)
        error = put(answer, "stats", stats, e);
    return error ? error : put(answer, "state", json_string(state_name(vm)), e);
}

/* Rows of text, and of the cells' attributes in hexadecimal. */
static int screen(struct control_client *client, const struct control_request *request, json_t *answer, struct err *e)
{
    json_t *text = json_array(), *attributes = json_array();
    int error;

    (void)request;
    for (unsigned row = 0; row < TEXT_SCREEN_ROWS; row++) {
        uint8_t cells[TEXT_SCREEN_ROW_BYTES];
        char line[TEXT_SCREEN_LINE], colours[TEXT_SCREEN_COLUMNS * 2 + 1];

        /* Not atomic: the guest may be writing to it. */
        if (mem_read(&client->control->machine->vm.mem, TEXT_SCREEN_GPA + row * TEXT_SCREEN_ROW_BYTES, cells, sizeof(cells)) != 0) {
            json_decref(text);
            json_decref(attributes);
            return err_set(e, ENXIO, "this VM has no memory where the text screen would be");
        }
        text_screen_line(cells, line);
        text_screen_attributes(cells, colours);
        json_array_append_new(text, json_string(line));
        json_array_append_new(attributes, json_string(colours));
    }
    error = put(answer, "text", text, e);
    return put(answer, "attributes", attributes, e) == 0 ? error : -ENOMEM;
}

static int console(struct control_client *client, const struct control_request *request, json_t *answer, struct err *e)
{
    bool virtio = client->control->machine->virtio_console != NULL;
    int error = control_console_attach(client, e);

    (void)request;
    return error ? error : put(answer, "console", json_string(virtio ? "virtio" : "serial"), e);
}

static int send_break(struct control_client *client, const struct control_request *request, json_t *answer, struct err *e)
{
    (void)request, (void)answer;
    return console_share_break(&client->control->share) ? 0 : err_set(e, EAGAIN, "the guest takes no input now");
}

static int resize(struct control_client *client, const struct control_request *request, json_t *answer, struct err *e)
{
    (void)answer;
    if (console_share_resize(&client->control->share, (uint16_t)request->number[0], (uint16_t)request->number[1]))
        return 0;
    return err_set(e, ENOTSUP, "the VM's console is a serial line, which does not tell the size of a window");
}

static int trace(struct control_client *client, const struct control_request *request, json_t *answer, struct err *e)
{
    (void)answer;
    return control_trace_open(client, (unsigned long)request->number[0], (unsigned)request->number[1], e);
}

static int trace_read(struct control_client *client, const struct control_request *request, json_t *answer, struct err *e)
{
    return control_trace_read(client, (unsigned long)request->number[0], false, answer, e);
}

static int trace_end(struct control_client *client, const struct control_request *request, json_t *answer, struct err *e)
{
    (void)request;
    return control_trace_read(client, 0, true, answer, e);
}

static carry_out *const commands[CONTROL_KIND_COUNT] = {
    [CONTROL_INFO] = info,           [CONTROL_PAUSE] = pause_vm,
    [CONTROL_RESUME] = resume_vm,    [CONTROL_POWER_BUTTON] = power_button,
    [CONTROL_RESET] = reset,         [CONTROL_NMI] = nmi,
    [CONTROL_QUIT] = quit,           [CONTROL_STAT] = statistics,
    [CONTROL_SCREEN] = screen,       [CONTROL_CONSOLE] = console,
    [CONTROL_BREAK] = send_break,    [CONTROL_RESIZE] = resize,
    [CONTROL_TRACE] = trace,         [CONTROL_TRACE_READ] = trace_read,
    [CONTROL_TRACE_END] = trace_end,
};

int control_carry_out(struct control_client *client, const struct control_request *request, json_t *answer, struct err *e)
{
    return commands[request->kind](client, request, answer, e);
}
