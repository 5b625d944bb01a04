/* umbra screen: the text screen of a guest that writes to one. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "api/client.h"
#include "api/text_screen.h"
#include "base/log.h"
#include "cli/cli.h"

/* The length of a UTF-8 character. */
static int char_len(const char *p)
{
    return (unsigned char)*p < 0x80 ? 1 : (unsigned char)*p < 0xe0 ? 2 : 3;
}

static int digit(char c)
{
    return c >= 'a' ? c - 'a' + 10 : c - '0';
}

static void print_coloured(const char *line, const char *attributes)
{
    int shown = -1;

    for (; *line && attributes[0] && attributes[1]; attributes += 2) {
        int attribute = (digit(attributes[0]) << 4 | digit(attributes[1])) & 0xff, len = char_len(line);
        char sgr[TEXT_SCREEN_SGR];

        if (attribute != shown)
            fputs(text_screen_sgr((uint8_t)attribute, sgr), stdout);
        shown = attribute;
        printf("%.*s", len, line);
        line += strnlen(line, (size_t)len);
    }
    fputs("\x1b[0m\n", stdout);
}

/* Blanks at the end of a line are nothing to see. */
static void print_plain(const char *line)
{
    size_t len = strlen(line);

    while (len > 0 && line[len - 1] == ' ')
        len--;
    printf("%.*s\n", (int)len, line);
}

static void print(const json_t *answer, bool coloured)
{
    const json_t *text = json_object_get(answer, "text"), *attributes = json_object_get(answer, "attributes");

    for (size_t row = 0; row < json_array_size(text); row++) {
        const char *line = json_string_value(json_array_get(text, row));
        const char *colours = json_string_value(json_array_get(attributes, row));

        if (line && colours && coloured)
            print_coloured(line, colours);
        else if (line)
            print_plain(line);
    }
}

int cli_screen(const struct command_args *args)
{
    struct client client;
    struct err e;
    json_t *answer = NULL;

    if (client_open(&client, args->vm, &e) == 0)
        answer = client_ask(&client, "screen", &e);
    client_close(&client);
    if (!answer) {
        log_error("%s", e.text);
        return EXIT_FAILURE;
    }
    print(answer, command_given(args, "color"));
    json_decref(answer);
    return cli_printed();
}
