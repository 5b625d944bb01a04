/* Packets of the GDB remote serial protocol: framing, checksums, escapes and numbers (GDB manual, appendix E). */
#include "gdb/packet.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char digits[] = "0123456789abcdef";

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* --- from the client --- */

static void begin(struct gdb_reader *r)
{
    r->state = GDB_INSIDE;
    r->sum = 0;
    r->len = 0;
    r->too_long = r->bad_digit = false;
}

static enum gdb_event outside(struct gdb_reader *r, uint8_t byte)
{
    switch (byte) {
    case '$': begin(r); return GDB_NOTHING;
    case '+': return GDB_ACK;
    case '-': return GDB_NAK;
    case 3: return GDB_INTERRUPT;
    default: return GDB_NOTHING;
    }
}

static void inside(struct gdb_reader *r, uint8_t byte)
{
    if (byte == '#') {
        r->state = GDB_CHECKSUM_HIGH;
    } else if (byte == '$') { /* never within a packet: the end of the last one was lost */
        begin(r);
    } else {
        r->sum = (uint8_t)(r->sum + byte);
        if (r->len < GDB_PACKET_MAX)
            r->packet[r->len++] = (char)byte;
        else
            r->too_long = true;
    }
}

static void checksum_digit(struct gdb_reader *r, uint8_t byte)
{
    int value = digit_value((char)byte);

    r->bad_digit |= value < 0;
    r->checksum = (uint8_t)(r->checksum << 4 | (value & 0xf));
}

static enum gdb_event complete(struct gdb_reader *r)
{
    r->state = GDB_OUTSIDE;
    r->packet[r->len] = '\0';
    if (r->bad_digit || r->checksum != r->sum)
        return GDB_DAMAGED;
    return r->too_long ? GDB_TOO_LONG : GDB_PACKET;
}

enum gdb_event gdb_reader_feed(struct gdb_reader *r, uint8_t byte)
{
    switch (r->state) {
    case GDB_OUTSIDE: return outside(r, byte);
    case GDB_INSIDE: inside(r, byte); return GDB_NOTHING;
    case GDB_CHECKSUM_HIGH:
        checksum_digit(r, byte);
        r->state = GDB_CHECKSUM_LOW;
        return GDB_NOTHING;
    case GDB_CHECKSUM_LOW: checksum_digit(r, byte); return complete(r);
    }
    return GDB_NOTHING;
}

bool gdb_scan_char(struct gdb_scan *s, char c)
{
    bool is = s->at < s->end && *s->at == c;

    s->at += is;
    return is;
}

bool gdb_scan_word(struct gdb_scan *s, const char *word)
{
    size_t len = strlen(word);
    bool is = len <= (size_t)(s->end - s->at) && memcmp(s->at, word, len) == 0;

    s->at += is ? len : 0;
    return is;
}

bool gdb_scan_number(struct gdb_scan *s, uint64_t *value)
{
    unsigned count = 0;

    for (*value = 0; s->at < s->end && digit_value(*s->at) >= 0; s->at++, count++)
        *value = *value << 4 | (unsigned)digit_value(*s->at);
    return count >= 1 && count <= 16;
}

bool gdb_scan_hex(struct gdb_scan *s, void *bytes, size_t n)
{
    uint8_t *to = bytes;

    if ((size_t)(s->end - s->at) / 2 < n)
        return false;
    for (; n > 0; n--, s->at += 2) {
        int high = digit_value(s->at[0]), low = digit_value(s->at[1]);

        if (high < 0 || low < 0)
            return false;
        *to++ = (uint8_t)(high << 4 | low);
    }
    return true;
}

bool gdb_scan_binary(struct gdb_scan *s, void *bytes, size_t n)
{
    uint8_t *to = bytes;

    for (; n > 0 && s->at < s->end; n--) {
        uint8_t byte = (uint8_t)*s->at++;

        if (byte == '}') {
            if (s->at == s->end)
                return false;
            byte = (uint8_t)*s->at++ ^ 0x20;
        }
        *to++ = byte;
    }
    return n == 0 && gdb_scan_done(s);
}

/* --- to the client --- */

void gdb_reply_clear(struct gdb_reply *r)
{
    r->len = 0;
    r->full = false;
}

void gdb_reply_text(struct gdb_reply *r, const char *fmt, ...)
{
    char text[256];
    va_list args;
    size_t len;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    len = strlen(text);
    if (len > sizeof(r->data) - r->len) {
        r->full = true;
        return;
    }
    memcpy(r->data + r->len, text, len);
    r->len += len;
}

void gdb_reply_hex(struct gdb_reply *r, const void *bytes, size_t n)
{
    const uint8_t *from = bytes;

    if (n > (sizeof(r->data) - r->len) / 2) {
        r->full = true;
        return;
    }
    for (; n > 0; n--, from++) {
        r->data[r->len++] = digits[*from >> 4];
        r->data[r->len++] = digits[*from & 0xf];
    }
}

size_t gdb_reply_binary(struct gdb_reply *r, const void *bytes, size_t n)
{
    const char *from = bytes;
    size_t i;

    for (i = 0; i < n && r->len + 2 <= sizeof(r->data); i++) {
        char c = from[i];

        if (c == '#' || c == '$' || c == '}' || c == '*') {
            r->data[r->len++] = '}';
            c ^= 0x20;
        }
        r->data[r->len++] = c;
    }
    return i;
}

size_t gdb_frame(const struct gdb_reply *r, char *out)
{
    uint8_t sum = 0;
    char *to = out;

    *to++ = '$';
    for (size_t i = 0; i < r->len; i++) {
        sum = (uint8_t)(sum + (uint8_t)r->data[i]);
        *to++ = r->data[i];
    }
    *to++ = '#';
    *to++ = digits[sum >> 4];
    *to++ = digits[sum & 0xf];
    return (size_t)(to - out);
}
