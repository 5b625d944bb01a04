/* Fuzzes requests on the control socket: a line of any content becomes a request that can be carried out, or a sentence. */
#include <jansson.h>
#include <string.h>

#include "api/control_request.h"
#include "base/bug.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_id(const struct control_request *r)
{
    BUG_ON(r->id && !json_is_string(r->id) && !json_is_integer(r->id));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct control_request r;
    struct err e = {""};
    int error = control_request_parse(&r, (const char *)data, size, &e);

    check_id(&r);
    if (error) {
        BUG_ON(error > 0 || !e.text[0] || !memchr(e.text, '\0', sizeof(e.text)));
        for (const char *p = e.text; *p; p++)
            BUG_ON(*p < ' ' || *p > '~'); /* it will be printed on somebody's terminal */
    } else {
        BUG_ON(size > CONTROL_REQUEST_MAX || r.kind >= CONTROL_KIND_COUNT);
        for (unsigned i = 0; i < CONTROL_NUMBERS_MAX; i++)
            BUG_ON(r.number[i] < 0 || r.number[i] > UINT16_MAX);
    }
    control_request_fini(&r);
    return 0;
}
