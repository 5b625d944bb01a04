/* A request on the control socket: one line of JSON, taken apart and checked. */
#pragma once

#include "base/err.h"

struct json_t;

#define CONTROL_REQUEST_MAX 4096 /* bytes of a line, without its end */

#define CONTROL_TRACE_MS_MAX 3600000

enum control_kind {
    CONTROL_INFO,
    CONTROL_PAUSE,
    CONTROL_RESUME,
    CONTROL_POWER_BUTTON,
    CONTROL_RESET,
    CONTROL_NMI,
    CONTROL_QUIT,
    CONTROL_STAT,
    CONTROL_SCREEN,
    CONTROL_CONSOLE,
    CONTROL_BREAK,
    CONTROL_RESIZE,
    CONTROL_TRACE,
    CONTROL_TRACE_READ,
    CONTROL_TRACE_END,
    CONTROL_KIND_COUNT,
};

#define CONTROL_NUMBERS_MAX 2

struct control_request {
    enum control_kind kind;
    int64_t number[CONTROL_NUMBERS_MAX]; /* in the order of the request's row in control_request.c */
    struct json_t *id;                   /* as it came, to be sent back; NULL: none came */
};

extern const char *const control_request_names[CONTROL_KIND_COUNT];

/*
 * line: what a client sent, of any content and length. 0, or -EINVAL with a sentence that tells what is wrong with it; in both cases the
 * caller then owns what the request holds, which may have an id.
 */
int control_request_parse(struct control_request *, const char *line, size_t len, struct err *);
void control_request_fini(struct control_request *);
