/* Takes requests apart. Everything that a client can send ends in a request or in a sentence. */
#include "api/control_request.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "cpu/trace.h"

/* A member that a request must have: a whole number in these bounds. */
struct parameter {
    const char *name;
    int64_t min, max;
};

static const struct {
    struct parameter numbers[CONTROL_NUMBERS_MAX]; /* the first without a name ends them */
} shapes[CONTROL_KIND_COUNT] = {
    [CONTROL_RESIZE] = {{{"columns", 0, UINT16_MAX}, {"rows", 0, UINT16_MAX}}},
    [CONTROL_TRACE] = {{{"events", 1, TRACE_EVENTS_MAX}, {"ms", 1, CONTROL_TRACE_MS_MAX}}},
    [CONTROL_TRACE_READ] = {{{"from", 0, TRACE_EVENTS_MAX}}},
};

const char *const control_request_names[CONTROL_KIND_COUNT] = {
    [CONTROL_INFO] = "info",           [CONTROL_PAUSE] = "pause",
    [CONTROL_RESUME] = "resume",       [CONTROL_POWER_BUTTON] = "power-button",
    [CONTROL_RESET] = "reset",         [CONTROL_NMI] = "nmi",
    [CONTROL_QUIT] = "quit",           [CONTROL_STAT] = "stat",
    [CONTROL_SCREEN] = "screen",       [CONTROL_CONSOLE] = "console",
    [CONTROL_BREAK] = "break",         [CONTROL_RESIZE] = "resize",
    [CONTROL_TRACE] = "trace",         [CONTROL_TRACE_READ] = "trace-read",
    [CONTROL_TRACE_END] = "trace-end",
};

/* What a sentence may quote of a client's text: printable, and not much of it. */
#define QUOTE_MAX 80

static const char *quote(char buf[QUOTE_MAX], const char *text)
{
    size_t i = 0;

    for (; i < QUOTE_MAX - 1 && text[i]; i++)
        buf[i] = (char)(text[i] >= ' ' && text[i] <= '~' ? text[i] : '?');
    buf[i] = '\0';
    return buf;
}

static int find_kind(struct control_request *r, const char *name, struct err *e)
{
    char quoted[QUOTE_MAX];

    for (unsigned i = 0; i < CONTROL_KIND_COUNT; i++)
        if (strcmp(name, control_request_names[i]) == 0) {
            r->kind = i;
            return 0;
        }
    return err_set(e, EINVAL, "there is no request '%s'", quote(quoted, name));
}

static int take_number(struct control_request *r, unsigned index, const json_t *root, struct err *e)
{
    const struct parameter *p = &shapes[r->kind].numbers[index];
    const json_t *value = json_object_get(root, p->name);

    if (!json_is_integer(value) || json_integer_value(value) < p->min || json_integer_value(value) > p->max)
        return err_set(e, EINVAL, "'%s' needs '%s', a whole number from %lld to %lld", control_request_names[r->kind], p->name,
                       (long long)p->min, (long long)p->max);
    r->number[index] = json_integer_value(value);
    return 0;
}

static bool is_parameter(enum control_kind kind, const char *key)
{
    for (unsigned i = 0; i < CONTROL_NUMBERS_MAX && shapes[kind].numbers[i].name; i++)
        if (strcmp(key, shapes[kind].numbers[i].name) == 0)
            return true;
    return false;
}

static int take_members(struct control_request *r, json_t *root, struct err *e)
{
    char quoted[QUOTE_MAX];
    const char *key;
    json_t *value;

    for (unsigned i = 0; i < CONTROL_NUMBERS_MAX && shapes[r->kind].numbers[i].name; i++) {
        int error = take_number(r, i, root, e);

        if (error)
            return error;
    }
    json_object_foreach(root, key, value) if (strcmp(key, "id") != 0 && strcmp(key, "request") != 0 &&
                                              !is_parameter(r->kind, key)) return err_set(e, EINVAL, "'%s' takes no '%s'",
                                                                                          control_request_names[r->kind],
                                                                                          quote(quoted, key));
    return 0;
}

int control_request_parse(struct control_request *r, const char *line, size_t len, struct err *e)
{
    json_error_t why;
    char quoted[QUOTE_MAX];
    json_t *root, *id;
    const char *name;
    int error;

    *r = (struct control_request){0};
    if (len > CONTROL_REQUEST_MAX)
        return err_set(e, EINVAL, "a request has at most %d bytes", CONTROL_REQUEST_MAX);
    root = json_loadb(line, len, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return err_set(e, EINVAL, "a request is a line with a JSON object: %s", quote(quoted, why.text));
    if (!json_is_object(root)) {
        json_decref(root);
        return err_set(e, EINVAL, "a request is a line with a JSON object, not with another value");
    }
    id = json_object_get(root, "id");
    if (id && !json_is_string(id) && !json_is_integer(id)) {
        json_decref(root);
        return err_set(e, EINVAL, "'id' is a string or a whole number");
    }
    r->id = json_incref(id);
    name = json_string_value(json_object_get(root, "request"));
    error = name ? find_kind(r, name, e) : err_set(e, EINVAL, "'request' is missing, which names what is to be done");
    if (!error)
        error = take_members(r, root, e);
    json_decref(root);
    return error;
}

void control_request_fini(struct control_request *r)
{
    json_decref(r->id);
    r->id = NULL;
}
