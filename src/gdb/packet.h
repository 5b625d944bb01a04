/* Packets of the GDB remote serial protocol: framing, checksums, escapes and numbers (GDB manual, appendix E). */
#pragma once

#include "base/types.h"

#define GDB_PACKET_MAX 0x4000U /* bytes of contents, both ways; PacketSize is this and the four around it */

/* --- from the client --- */

enum gdb_event {
    GDB_NOTHING, /* more bytes are needed */
    GDB_PACKET,  /* complete, in packet[0..len), with a 0 behind it */
    GDB_DAMAGED, /* its checksum is wrong */
    GDB_TOO_LONG,
    GDB_ACK,
    GDB_NAK,
    GDB_INTERRUPT, /* Ctrl-C */
};

/* Zero-initialized. */
struct gdb_reader {
    enum gdb_reader_state { GDB_OUTSIDE, GDB_INSIDE, GDB_CHECKSUM_HIGH, GDB_CHECKSUM_LOW } state;
    uint8_t sum, checksum;
    bool bad_digit, too_long;
    size_t len;
    char packet[GDB_PACKET_MAX + 1]; /* valid from GDB_PACKET until the next byte */
};

/* One more byte. What stands outside of packets and means nothing is passed over. */
enum gdb_event gdb_reader_feed(struct gdb_reader *, uint8_t byte);

/* A packet's contents, read from the left. */
struct gdb_scan {
    const char *at, *end;
};

bool gdb_scan_char(struct gdb_scan *, char c);                  /* takes c if it comes next */
bool gdb_scan_word(struct gdb_scan *, const char *word);        /* the same of a word */
bool gdb_scan_number(struct gdb_scan *, uint64_t *value);       /* hexadecimal, 1 to 16 digits */
bool gdb_scan_hex(struct gdb_scan *, void *bytes, size_t n);    /* n bytes, two digits each */
bool gdb_scan_binary(struct gdb_scan *, void *bytes, size_t n); /* n bytes, escaped, which are the whole rest */
static inline bool gdb_scan_done(const struct gdb_scan *s)
{
    return s->at == s->end;
}

/* --- to the client --- */

/* What does not fit is left out, and full is set. */
struct gdb_reply {
    size_t len;
    bool full;
    char data[GDB_PACKET_MAX];
};

void gdb_reply_clear(struct gdb_reply *);
void gdb_reply_text(struct gdb_reply *, const char *fmt, ...) PRINTF_LIKE(2, 3);
void gdb_reply_hex(struct gdb_reply *, const void *bytes, size_t n);
/* As many of the n bytes as fit, escaped; returns how many. */
size_t gdb_reply_binary(struct gdb_reply *, const void *bytes, size_t n);

/* $data#checksum into out, which has room for GDB_FRAME_MAX bytes. Returns its length. */
#define GDB_FRAME_MAX (GDB_PACKET_MAX + 4)
size_t gdb_frame(const struct gdb_reply *, char *out);
