/* Requests on the control socket: each is known by its name, and whatever else comes is refused with a sentence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/control_request.h"

static void refused(const char *line, size_t len, const char *word)
{
    struct control_request r;
    struct err e = {""};

    assert_int_equal(control_request_parse(&r, line, len, &e), -EINVAL);
    if (!strstr(e.text, word))
        fail_msg("no \"%s\" in: %s", word, e.text);
    control_request_fini(&r);
}

/* What a request of this kind needs beside its name. */
static const char *members(enum control_kind kind)
{
    switch (kind) {
    case CONTROL_RESIZE: return ", \"columns\": 0, \"rows\": 65535";
    case CONTROL_TRACE: return ", \"events\": 1, \"ms\": 3600000";
    case CONTROL_TRACE_READ: return ", \"from\": 100000";
    default: return "";
    }
}

static void every_request_is_known_by_its_name(void **state)
{
    (void)state;
    for (unsigned kind = 0; kind < CONTROL_KIND_COUNT; kind++) {
        struct control_request r;
        struct err e = {""};
        char line[128];

        assert_non_null(control_request_names[kind]);
        snprintf(line, sizeof(line), "{\"request\": \"%s\"%s}", control_request_names[kind], members(kind));
        if (control_request_parse(&r, line, strlen(line), &e) != 0)
            fail_msg("%s: %s", line, e.text);
        assert_int_equal(r.kind, kind);
        assert_int_equal(r.number[1], kind == CONTROL_RESIZE ? 65535 : kind == CONTROL_TRACE ? 3600000 : 0);
        assert_null(r.id);
        control_request_fini(&r);
    }
}

static void an_id_comes_back_also_of_a_request_that_is_refused(void **state)
{
    static const char *const lines[] = {"{\"id\":\"a\",\"request\":\"info\"}", "{\"id\":\"a\",\"request\":\"none\"}", "{\"id\":\"a\"}"};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(lines); i++) {
        struct control_request r;

        control_request_parse(&r, lines[i], strlen(lines[i]), NULL);
        assert_string_equal(json_string_value(r.id), "a");
        control_request_fini(&r);
    }
}

static void the_longest_line_is_taken_and_one_byte_more_is_not(void **state)
{
    static char line[CONTROL_REQUEST_MAX + 1];
    static const char request[] = "{\"request\":\"info\"}";
    struct control_request r;

    (void)state;
    memset(line, ' ', sizeof(line));
    memcpy(line, request, sizeof(request) - 1);
    assert_int_equal(control_request_parse(&r, line, CONTROL_REQUEST_MAX, NULL), 0);
    control_request_fini(&r);
    refused(line, CONTROL_REQUEST_MAX + 1, "at most 4096 bytes");
}

static void what_is_no_object_of_json_is_refused(void **state)
{
    static const char *const lines[] = {"",
                                        " ",
                                        "[]",
                                        "1",
                                        "null",
                                        "\"info\"",
                                        "{",
                                        "{}}",
                                        "{\"request\":\"info\"",
                                        "{'request':'info'}",
                                        "{\"request\":\"info\"}{}",
                                        "{\"request\":\"in\xc0\xaf\"}",
                                        "{\"request\":\"info\",}"};
    static char deep[4000];

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(lines); i++)
        refused(lines[i], strlen(lines[i]), "JSON object");
    memset(deep, '[', sizeof(deep));
    refused(deep, sizeof(deep), "JSON object");
    refused("{\"request\":\"info\0\"}", 19, "JSON object");
}

static void sentences_quote_nothing_that_a_terminal_would_obey(void **state)
{
    static const char line[] = "{\"request\":\"\\u001b[2J\\u009b\\u00e9\"}";
    struct control_request r;
    struct err e = {""};

    (void)state;
    assert_int_equal(control_request_parse(&r, line, strlen(line), &e), -EINVAL);
    assert_non_null(strstr(e.text, "'?[2J?"));
    control_request_fini(&r);
}

static void numbers_are_whole_and_in_their_bounds(void **state)
{
    static const char *const values[] = {"-1", "65536", "1.5", "\"80\"", "null", "true", "[80]", "{}"};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
        char line[128];

        snprintf(line, sizeof(line), "{\"request\":\"resize\",\"columns\":80,\"rows\":%s}", values[i]);
        refused(line, strlen(line), "'resize' needs 'rows', a whole number from 0 to 65535");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_request_is_known_by_its_name),
        cmocka_unit_test(an_id_comes_back_also_of_a_request_that_is_refused),
        cmocka_unit_test(the_longest_line_is_taken_and_one_byte_more_is_not),
        cmocka_unit_test(what_is_no_object_of_json_is_refused),
        cmocka_unit_test(sentences_quote_nothing_that_a_terminal_would_obey),
        cmocka_unit_test(numbers_are_whole_and_in_their_bounds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
