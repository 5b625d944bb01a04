/* Settings from a JSON file: each value checked for its type, each complaint with the line of its key. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/options.h"

#define FILE_MAX MIB(1) /* bytes; a configuration is some hundred */

static const char *const wanted_type[] = {
    [CONFIG_TEXT] = "a string",
    [CONFIG_NUMBER] = "a whole number, a string or an object",
    [CONFIG_SIZE] = "a string such as \"512M\", or a whole number of bytes",
    [CONFIG_SWITCH] = "true or false",
    [CONFIG_SWITCH_OR_TEXT] = "true, false or the name of a file as a string",
    [CONFIG_ITEMS] = "true, false, a string or an object",
    [CONFIG_LIST] = "a string, an object, or an array of those",
};

static const char *json_type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "a whole number";
    case JSON_REAL: return "a number with a fraction";
    case JSON_TRUE:
    case JSON_FALSE: return "true or false";
    case JSON_NULL: return "null";
    }
    return "something else";
}

/* The whole file with a NUL after it; the caller frees *text. 0 or -errno. */
static int read_file(const char *path, char **text, size_t *len, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int error = 0;
    ssize_t n = 0;

    if (fd < 0)
        return err_set(e, errno, "cannot open the configuration %.300s: %s", path, strerror(errno));
    *len = 0;
    *text = malloc(FILE_MAX + 1);
    if (!*text) {
        error = err_set(e, ENOMEM, "no memory to read the configuration %.300s", path);
        goto close_file;
    }
    while (*len < FILE_MAX && (n = read(fd, *text + *len, FILE_MAX - *len)) > 0)
        *len += (size_t)n;
    if (n < 0)
        error = err_set(e, errno, "cannot read the configuration %.300s: %s", path, strerror(errno));
    else if (*len == FILE_MAX)
        error = err_set(e, EFBIG, "the configuration %.300s is 1M or larger: is it the right file?", path);
    else
        (*text)[*len] = '\0';
    if (error)
        free(*text);
close_file:
    close(fd);
    return error;
}

/*
 * The line of a key of the outermost object. The parser does not tell positions; text is what it found to be valid JSON, so strings and
 * brackets are all that there is to see. Only the keys themselves can stand before a colon at depth 1.
 */
static unsigned key_line(const char *text, const char *key)
{
    unsigned line = 1, depth = 0, string_line = 0;
    const char *string = NULL;
    size_t key_len = strlen(key), string_len = 0;

    for (const char *p = text; *p; p++) {
        if (*p == '\n') {
            line++;
        } else if (*p == '{' || *p == '[') {
            depth++;
        } else if (*p == '}' || *p == ']') {
            depth--;
        } else if (*p == ':' && depth == 1 && string && string_len == key_len && memcmp(string, key, key_len) == 0) {
            return string_line;
        } else if (*p == '"') {
            string = ++p;
            while (*p != '"' && *p)
                p += *p == '\\' && p[1] ? 2 : 1;
            string_len = (size_t)(p - string);
            string_line = line;
            if (!*p)
                break;
        }
    }
    return 1; /* the key was written with escapes */
}

/* One member of an object. Booleans are keys alone, or left out; a key that may come several times has an array of strings. */
static int add_member(struct config_items *items, const char *key, const json_t *value, struct err *why)
{
    size_t i;
    int error;

    switch (json_typeof(value)) {
    case JSON_TRUE: return config_items_add(items, key, NULL, why);
    case JSON_FALSE: return 0;
    case JSON_STRING: return config_items_add(items, key, json_string_value(value), why);
    case JSON_INTEGER:
        error = config_items_add(items, key, NULL, why);
        if (!error) {
            struct config_item *item = &items->item[items->count - 1];

            snprintf(item->number, sizeof(item->number), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
            item->value = item->number;
        }
        return error;
    case JSON_ARRAY:
        for (i = 0; i < json_array_size(value); i++) {
            const json_t *one = json_array_get(value, i);

            if (!json_is_string(one))
                return err_set(why, EINVAL, "needs strings in the array \"%.60s\", not %s", key, json_type_name(one));
            error = config_items_add(items, key, json_string_value(one), why);
            if (error)
                return error;
        }
        return 0;
    default: return err_set(why, EINVAL, "cannot have %s as \"%.60s\"", json_type_name(value), key);
    }
}

/* An option of items from a string, an object, a number or a boolean; the caller has looked at the type. */
static int apply_items(struct config *c, const struct config_option *option, const json_t *value, struct err *why)
{
    struct config_items items = {0};
    const char *key;
    json_t *member;
    int error = 0;

    if (json_is_string(value)) {
        error = config_items_split(&items, json_string_value(value), option->first, why);
    } else if (json_is_integer(value)) {
        error = add_member(&items, option->first, value, why);
    } else if (json_is_boolean(value)) {
        error = config_items_add(&items, json_is_true(value) ? "on" : "off", NULL, why);
    } else {
        json_object_foreach((json_t *)value, key, member)
        {
            error = add_member(&items, key, member, why);
            if (error)
                break;
        }
    }
    if (!error)
        error = option->set_items(c, &items, why);
    config_items_fini(&items);
    return error;
}

/* The file's list takes the place of the one before. */
static int apply_list(struct config *c, const struct config_option *option, const json_t *value, struct err *why)
{
    size_t count = json_is_array(value) ? json_array_size(value) : 1;
    int error = 0;

    option->clear(c);
    c->lists_from_file |= BIT(option - config_options);
    for (size_t i = 0; i < count && !error; i++) {
        const json_t *one = json_is_array(value) ? json_array_get(value, i) : value;

        if (json_is_string(one) || json_is_object(one))
            error = apply_items(c, option, one, why);
        else
            error = err_set(why, EINVAL, "must be %s, not %s", wanted_type[CONFIG_LIST],
                            json_is_array(value) ? "an array of something else" : json_type_name(one));
    }
    return error;
}

/* 0, -EINVAL for a wrong type, or what the setter says. */
static int apply(struct config *c, const struct config_option *option, const json_t *value, struct err *why)
{
    bool text_allowed = option->kind == CONFIG_TEXT || option->kind == CONFIG_SIZE || option->kind == CONFIG_SWITCH_OR_TEXT;
    bool number_allowed = option->kind == CONFIG_SIZE;
    bool switch_allowed = option->kind == CONFIG_SWITCH || option->kind == CONFIG_SWITCH_OR_TEXT;

    if (option->kind == CONFIG_LIST)
        return apply_list(c, option, value, why);
    if (option->kind == CONFIG_NUMBER && (json_is_integer(value) || json_is_string(value) || json_is_object(value)))
        return apply_items(c, option, value, why);
    if (option->kind == CONFIG_ITEMS && (json_is_string(value) || json_is_object(value) || json_is_boolean(value)))
        return apply_items(c, option, value, why);
    if (json_is_string(value) && text_allowed)
        return option->set(c, true, json_string_value(value), why);
    if (json_is_boolean(value) && switch_allowed)
        return option->set(c, json_is_true(value), NULL, why);
    if (json_is_integer(value) && number_allowed) {
        char number[32];
        snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        return option->set(c, true, number, why);
    }
    return err_set(why, EINVAL, "must be %s, not %s", wanted_type[option->kind], json_type_name(value));
}

static int apply_all(struct config *c, const char *path, const char *text, json_t *root, struct err *e)
{
    const char *key;
    json_t *value;

    json_object_foreach(root, key, value)
    {
        const struct config_option *option = config_option_find(key);
        struct err why;
        int error;

        if (!option || option->kind == CONFIG_INCLUDE)
            return err_set(e, EINVAL, "%.200s:%u: unknown key \"%.60s\": the keys are the flags of 'umbra run --help' without their dashes",
                           path, key_line(text, key), key);
        error = apply(c, option, value, &why);
        if (error)
            return err_set(e, -error, "%.200s:%u: \"%s\" %s", path, key_line(text, key), key, why.text);
    }
    return 0;
}

int config_load_json(struct config *c, const char *path, struct err *e)
{
    json_error_t syntax;
    size_t len;
    json_t *root;
    char *text;
    int error = read_file(path, &text, &len, e);

    if (error)
        return error;
    root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &syntax);
    if (!root) {
        error = err_set(e, EINVAL, "%.200s:%d: not valid JSON: %s", path, MAX(syntax.line, 1), syntax.text);
    } else if (!json_is_object(root)) {
        error = err_set(e, EINVAL, "%.200s:1: must be a JSON object such as {\"memory\": \"1G\"}, not %s", path, json_type_name(root));
    } else {
        error = apply_all(c, path, text, root, e);
    }
    json_decref(root);
    free(text);
    return error;
}
